//! Addresses of buses
//! ([Server Addresses](https://dbus.freedesktop.org/doc/dbus-specification.html#addresses)):
//! `unix:path=/run/user/1000/bus;unix:abstract=…`.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::SocketAddr;

/// The sockets in a list of addresses, in their order. What is malformed or no socket of this machine is left out.
pub(in crate::cgroup) fn sockets(list: &str) -> Vec<SocketAddr> {
    list.split(';').filter_map(socket).collect()
}

fn socket(address: &str) -> Option<SocketAddr> {
    address.strip_prefix("unix:")?.split(',').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        let value = unescape(value)?;
        match key {
            "path" => SocketAddr::from_pathname(OsStr::from_bytes(&value)).ok(),
            "abstract" => SocketAddr::from_abstract_name(value).ok(),
            _ => None,
        }
    })
}

/// `%20` is a byte by its two digits.
fn unescape(value: &str) -> Option<Vec<u8>> {
    let mut parts = value.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend(rest.as_bytes());
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn sockets_are_found_by_path_and_by_name() {
        let list = "unix:path=/run/user/1000/bus,guid=5;tcp:host=h,port=5;unix:guid=5,path=/a%20b;unix:abstract=/x";
        let found = sockets(list);
        let paths: Vec<_> = found.iter().filter_map(SocketAddr::as_pathname).collect();
        assert_eq!(paths, ["/run/user/1000/bus", "/a b"].map(Path::new));
        assert_eq!(found[2].as_abstract_name(), Some(b"/x".as_slice()));
    }

    #[test]
    fn what_is_no_address_is_left_out() {
        for list in [
            "",
            ";",
            "unix:",
            "unix:path",
            "unix:path=%2",
            "unix:path=%zz",
            "unix:path=a%é",
        ] {
            assert_eq!(sockets(list).len(), 0, "{list:?}");
        }
    }
}
