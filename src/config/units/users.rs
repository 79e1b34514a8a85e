//! Users and groups, from the text of /etc/passwd and /etc/group: getpwnam would load NSS modules, which a static
//! binary can't.

use std::path::PathBuf;

use super::Bad;
use crate::config::{Owner, User};

struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// A user by `name`, `uid` or `uid:gid`. A `uid` alone must be in `passwd`: there is no safe guess at its group.
pub fn user(text: &str, passwd: &str, group: &str) -> Result<User, Bad> {
    let bad = |why: &str| Bad::new("a user", why).hint("it is a name or a uid of /etc/passwd, or `UID:GID`");
    let (user, gid) = match text.split_once(':') {
        Some((user, gid)) => (user, Some(id(gid).ok_or_else(|| bad("what follows the `:` is no number"))?)),
        None => (text, None),
    };
    if let Some(uid) = id(user) {
        let entry = entries(passwd).find(|entry| entry.uid == uid);
        let gid = gid.or(entry.as_ref().map(|entry| entry.gid));
        let gid = gid.ok_or_else(|| bad("/etc/passwd does not have it, so that its group is unknown"))?;
        return Ok(with_entry(User { uid, gid, groups: vec![gid], name: None, home: None }, entry));
    }
    if gid.is_some() {
        return Err(bad("only a number may stand before the `:`"));
    }
    let entry = entries(passwd)
        .find(|entry| entry.name == user)
        .ok_or_else(|| bad("/etc/passwd does not have it"))?;
    let mut groups = vec![entry.gid];
    groups.extend(supplementary(group, user).filter(|gid| *gid != entry.gid));
    Ok(with_entry(User { uid: entry.uid, gid: entry.gid, groups, name: None, home: None }, Some(entry)))
}

/// Whom a file belongs to: `app` (with its group), `app:web`, `1000`, `1000:1001`. A bare number need not be in `passwd`;
/// where it is not, the group stays as it is.
pub fn owner(text: &str, passwd: &str, group: &str) -> Result<Owner, Bad> {
    let bad = |why: &str| Bad::new("an owner", why).hint("it is a user, `USER:GROUP` or `UID:GID`");
    let (user, of_group) = match text.split_once(':') {
        Some((user, of_group)) => (user, Some(of_group)),
        None => (text, None),
    };
    let number = id(user);
    let entry = entries(passwd).find(|entry| match number {
        Some(uid) => entry.uid == uid,
        None => entry.name == user,
    });
    let uid = number.or(entry.as_ref().map(|entry| entry.uid));
    let uid = uid.ok_or_else(|| bad("/etc/passwd does not have the user"))?;
    let gid = match of_group {
        None => entry.map(|entry| entry.gid),
        Some(name) => {
            let gid =
                id(name).or_else(|| groups(group).find(|(known, _)| *known == name).map(|(_, gid)| gid));
            Some(gid.ok_or_else(|| bad("/etc/group does not have the group"))?)
        }
    };
    Ok(Owner { uid, gid })
}

fn with_entry(user: User, entry: Option<Entry<'_>>) -> User {
    match entry {
        Some(entry) => {
            User { name: Some(entry.name.to_owned()), home: Some(PathBuf::from(entry.home)), ..user }
        }
        None => user,
    }
}

/// Digits only; the largest number means "no change" to setuid(2).
fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id != u32::MAX && text.bytes().all(|b| b.is_ascii_digit()))
}

/// Lines of another shape are passed over, as the C library does.
fn entries(passwd: &str) -> impl Iterator<Item = Entry<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let (uid, gid) = (id(fields.nth(1)?)?, id(fields.next()?)?);
        Some(Entry { name, uid, gid, home: fields.nth(1)? })
    })
}

fn groups(group: &str) -> impl Iterator<Item = (&str, u32)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        Some((name, id(fields.nth(1)?)?))
    })
}

fn supplementary<'a>(group: &'a str, user: &'a str) -> impl Iterator<Item = u32> + 'a {
    group.lines().filter_map(move |line| {
        let mut fields = line.split(':');
        let gid = id(fields.nth(2)?)?;
        fields.next()?.split(',').any(|member| member == user).then_some(gid)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nbroken\n::5:5::/:\napp:x:1000:1001:,,,:/srv/app:/bin/sh\n";
    const GROUP: &str = "root:x:0:\napp:x:1001:app\nlog:x:4:syslog,app\nbroken\nother:x:9:application\n";

    #[test]
    fn a_name_brings_its_groups_and_home() {
        let app = user("app", PASSWD, GROUP).expect("in passwd");
        assert_eq!((app.uid, app.gid, app.groups), (1000, 1001, vec![1001, 4]));
        assert_eq!((app.name.as_deref(), app.home), (Some("app"), Some("/srv/app".into())));
    }

    #[test]
    fn a_number_brings_no_groups_of_others() {
        let app = user("1000", PASSWD, GROUP).expect("in passwd");
        assert_eq!((app.gid, app.groups, app.name.as_deref()), (1001, vec![1001], Some("app")));
        let bare = user("7:8", PASSWD, GROUP).expect("both given");
        assert_eq!((bare.uid, bare.gid, bare.groups, bare.name), (7, 8, vec![8], None));
    }

    #[test]
    fn an_owner_is_a_user_and_mostly_a_group() {
        let of = |text| owner(text, PASSWD, GROUP).map(|owner| (owner.uid, owner.gid));
        assert_eq!(of("app"), Ok((1000, Some(1001))));
        assert_eq!(of("1000"), Ok((1000, Some(1001))));
        assert_eq!(of("7"), Ok((7, None)));
        assert_eq!(of("app:log"), Ok((1000, Some(4))));
        assert_eq!(of("7:log"), Ok((7, Some(4))));
        assert_eq!(of("app:9"), Ok((1000, Some(9))));
        for text in ["", ":", ":log", "app:", "app:nobody", "nobody", "-1", "4294967295", "app:log:x"] {
            assert!(of(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_no_user() {
        for text in ["", "nobody", "7", "app:4", "7:app", "7:", ":7", "-1", "4294967295", "7:4294967295"] {
            assert!(user(text, PASSWD, GROUP).is_err(), "{text}");
        }
    }
}
