//! Which service may start and which must be stopped next: the `after` lists, forwards and backwards. The check of
//! the configuration has made sure that they have no cycle.

use super::service::Service;
use crate::config::{Config, ServiceId};

/// What stands between a waiting service and its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    Open,
    Closed,
    /// This one will never be ready, so neither will those after it.
    Shut(ServiceId),
}

/// May `service` start, as far as those that it is `after` are concerned?
pub fn gate(config: &Config, services: &[Service], service: ServiceId) -> Gate {
    let mut gate = Gate::Open;
    for &before in &config.services[service.0].after {
        let (config, state) = (&config.services[before.0], &services[before.0]);
        if state.is_out_of_reach(config) {
            return Gate::Shut(before);
        }
        if !state.is_reached(config) {
            gate = Gate::Closed;
        }
    }
    gate
}

/// Nothing that is `after` this service has a process any more: it may be stopped.
pub fn is_last(config: &Config, services: &[Service], service: ServiceId) -> bool {
    let depends = |other: usize| config.services[other].after.contains(&service);
    (0..services.len()).all(|other| !depends(other) || is_gone(config, services, ServiceId(other)))
}

/// Neither it nor anything that is after it, however far, has a process.
fn is_gone(config: &Config, services: &[Service], service: ServiceId) -> bool {
    !services[service.0].has_process() && is_last(config, services, service)
}
