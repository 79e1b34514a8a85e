//! What the network tells us: which address a name has (`resolve`), which address we announce (`address`), which one the
//! default route leads over (`gateway`).

pub mod address;
pub mod gateway;
pub mod resolve;
