//! Links: a listener inside the container for each service that runs elsewhere.

pub mod docker_env;
pub mod plan;
