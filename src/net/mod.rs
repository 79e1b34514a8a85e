//! What the network tells us: which address a name has (`resolve`), which address we announce (`address`), which one the
//! default route leads over (`gateway`), how
//! a connection is secured (`tls`), and how HTTP is spoken over one (`http`).

pub mod address;
pub mod gateway;
pub mod http;
pub mod resolve;
pub mod tls;
