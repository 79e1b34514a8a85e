//! What somebody else follows for the links: the instances of a name in the registry. Links never ask the registry;
//! the wiring hands in who does. The last set that was told stays while there is no news.

use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::watch;

use crate::config::DnsName;
use crate::net::resolve::Instance;

/// Makes the work that follows a name and tells the feed. It runs on the links' own thread for as long as they are
/// open.
pub type Follow<'a> = &'a dyn Fn(DnsName, Feed) -> Pin<Box<dyn Future<Output = ()> + Send>>;

/// The telling end.
#[derive(Debug)]
pub struct Feed(watch::Sender<News>);

#[derive(Debug, Clone, Default)]
pub(super) struct News {
    /// `None` until somebody could be asked for the first time.
    pub(super) instances: Option<Arc<[Instance]>>,
    /// Why there is no news at present.
    pub(super) lost: Option<String>,
}

pub(super) fn feed() -> (Feed, watch::Receiver<News>) {
    let (sender, receiver) = watch::channel(News::default());
    (Feed(sender), receiver)
}

impl Feed {
    /// All who are there now, perhaps nobody.
    pub fn tell(&self, instances: Vec<Instance>) {
        self.0.send_if_modified(|news| {
            let is_new = news.instances.as_deref() != Some(&instances) || news.lost.is_some();
            if news.instances.as_deref() != Some(&instances) {
                news.instances = Some(instances.into());
            }
            news.lost = None;
            is_new
        });
    }

    /// Nobody can be asked. Gives how many instances are known from before.
    pub fn lose(&self, reason: String) -> usize {
        self.0.send_modify(|news| news.lost = Some(reason));
        self.0.borrow().instances.as_ref().map_or(0, |instances| instances.len())
    }
}
