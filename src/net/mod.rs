//! What the network tells us: which address a name has (`resolve`), which address we announce (`address`).

pub mod address;
pub mod resolve;
