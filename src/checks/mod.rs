//! (temporary)
pub mod http {
    pub async fn probe(
        _: &crate::config::HttpTarget,
        _: &crate::net::resolve::Resolver,
    ) -> Result<(), String> {
        Ok(())
    }
}
pub mod tcp {
    pub async fn probe(_: &crate::config::HostPort, _: &crate::net::resolve::Resolver) -> Result<(), String> {
        Ok(())
pub mod http;
pub mod tcp;
    }
}
