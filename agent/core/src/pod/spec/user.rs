//! Who a container's first process runs as: the security context, the image's user, and the image's own passwd and group
//! files as facts.

use super::SpecError;
use crate::pod::{DesiredContainer, DesiredPod};

/// The ids of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    /// The user.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// All groups, the primary one first, as containerd gives them.
    pub groups: Vec<u32>,
    /// The user's home directory, when the image knows the user.
    pub home: Option<String>,
}

/// A line of `/etc/passwd`.
struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// The ids that `container` runs with. `image_user` is the image's `user[:group]`.
///
/// # Errors
/// When a name is not in the image, or the user would be root and must not be.
pub fn resolve(
    pod: &DesiredPod,
    container: &DesiredContainer,
    image_user: &str,
    passwd: &str,
    group: &str,
) -> Result<Ids, SpecError> {
    let (image_name, image_group) = image_user.split_once(':').unwrap_or((image_user, ""));
    check_root(container, image_name)?;
    let wanted = container
        .security
        .user
        .map_or_else(|| image_name.to_owned(), |uid| uid.to_string());
    let known = find_user(passwd, &wanted);
    let uid = match (&known, wanted.parse::<u32>()) {
        (_, Ok(uid)) => uid,
        (Some(user), Err(_)) => user.uid,
        (None, Err(_)) if wanted.is_empty() => 0,
        (None, Err(_)) => return Err(SpecError::UnknownUser { user: wanted }),
    };
    let gid = match container.security.group {
        Some(gid) => gid,
        None if container.security.user.is_none() && !image_group.is_empty() => find_group(group, image_group)?,
        None => known.as_ref().map_or(0, |user| user.gid),
    };
    let mut groups = vec![gid];
    let listed = known.iter().flat_map(|user| memberships(group, user.name));
    for id in listed.chain(pod.supplemental_groups.iter().copied()) {
        if !groups.contains(&id) {
            groups.push(id);
        }
    }
    let home = known.map(|user| user.home.to_owned()).filter(|home| !home.is_empty());
    Ok(Ids { uid, gid, groups, home })
}

fn check_root(container: &DesiredContainer, image_name: &str) -> Result<(), SpecError> {
    if !container.security.must_be_non_root {
        return Ok(());
    }
    match (container.security.user, image_name.parse::<u32>()) {
        (Some(0), _) => Err(SpecError::AskedForRoot),
        (Some(_), _) => Ok(()),
        (None, Ok(0)) => Err(SpecError::WouldRunAsRoot),
        (None, Ok(_)) => Ok(()),
        (None, Err(_)) if image_name.is_empty() => Err(SpecError::WouldRunAsRoot),
        (None, Err(_)) => Err(SpecError::UserNotNumeric {
            user: image_name.to_owned(),
        }),
    }
}

/// The user with this name or number; no name is root.
fn find_user<'a>(passwd: &'a str, wanted: &str) -> Option<User<'a>> {
    let wanted_uid = if wanted.is_empty() {
        Some(0)
    } else {
        wanted.parse::<u32>().ok()
    };
    let mut users = passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1).unwrap_or_default();
        Some(User { name, uid, gid, home })
    });
    users.find(|user| wanted_uid.map_or(user.name == wanted, |uid| user.uid == uid))
}

fn find_group(group: &str, wanted: &str) -> Result<u32, SpecError> {
    if let Ok(gid) = wanted.parse() {
        return Ok(gid);
    }
    let mut known = group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        Some((fields.next()?, fields.nth(1)?.parse().ok()?))
    });
    known
        .find_map(|(name, gid)| (name == wanted).then_some(gid))
        .ok_or_else(|| SpecError::UnknownGroup {
            group: wanted.to_owned(),
        })
}

/// The groups that name the user as a member.
fn memberships(group: &str, user: &str) -> impl Iterator<Item = u32> {
    group.lines().filter_map(move |line| {
        let mut fields = line.split(':').skip(2);
        let gid = fields.next()?.parse().ok()?;
        fields
            .next()?
            .split(',')
            .any(|member| member.trim() == user)
            .then_some(gid)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::sample;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\nbroken\nweb:x:100:101:Web:/srv:/bin/false\nnohome:x:7:7\n";
    const GROUP: &str = "root:x:0:\nweb:x:101:\nextra:x:200:other,web\naudio:x:29:web\nbroken\n";

    fn ids(user: Option<u32>, group: Option<u32>, image: &str) -> Result<(u32, u32, Vec<u32>), SpecError> {
        let mut pod = sample::pod();
        pod.supplemental_groups = vec![3000, 200];
        pod.containers[0].security.user = user;
        pod.containers[0].security.group = group;
        resolve(&pod, &pod.containers[0], image, PASSWD, GROUP).map(|ids| (ids.uid, ids.gid, ids.groups))
    }

    #[test]
    fn the_user_comes_from_the_context_or_the_image() {
        for (user, group, image, expected) in [
            (None, None, "", (0, 0, vec![0, 3000, 200])),
            (None, None, "web", (100, 101, vec![101, 200, 29, 3000])),
            (None, None, "100", (100, 101, vec![101, 200, 29, 3000])),
            (None, None, "web:extra", (100, 200, vec![200, 29, 3000])),
            (None, None, "1234", (1234, 0, vec![0, 3000, 200])),
            (None, None, "1234:55", (1234, 55, vec![55, 3000, 200])),
            (Some(100), None, "root:extra", (100, 101, vec![101, 200, 29, 3000])),
            (Some(1234), None, "web", (1234, 0, vec![0, 3000, 200])),
            (Some(1234), Some(9), "web", (1234, 9, vec![9, 3000, 200])),
            (None, Some(9), "web", (100, 9, vec![9, 200, 29, 3000])),
        ] {
            assert_eq!(ids(user, group, image), Ok(expected), "{user:?} {group:?} {image:?}");
        }
        assert_eq!(
            ids(None, None, "ghost"),
            Err(SpecError::UnknownUser {
                user: "ghost".to_owned()
            })
        );
        assert_eq!(
            ids(None, None, "web:ghost"),
            Err(SpecError::UnknownGroup {
                group: "ghost".to_owned()
            })
        );
    }

    #[test]
    fn root_is_refused_where_it_must_not_be() {
        let mut pod = sample::pod();
        pod.containers[0].security.must_be_non_root = true;
        for (user, image, expected) in [
            (None, "", Some(SpecError::WouldRunAsRoot)),
            (None, "0:5", Some(SpecError::WouldRunAsRoot)),
            (None, "web", Some(SpecError::UserNotNumeric { user: "web".to_owned() })),
            (None, "100", None),
            (Some(0), "100", Some(SpecError::AskedForRoot)),
            (Some(5), "", None),
        ] {
            pod.containers[0].security.user = user;
            let found = resolve(&pod, &pod.containers[0], image, PASSWD, GROUP).err();
            assert_eq!(found, expected, "{user:?} {image:?}");
        }
    }
}
