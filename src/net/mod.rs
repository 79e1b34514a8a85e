//! What the network tells us: which address a name has (`resolve`), which address we announce (`address`), which one the
//! default route leads over (`gateway`), and how
//! a connection is secured (`tls`).

pub mod address;
pub mod gateway;
pub mod resolve;
pub mod tls;
