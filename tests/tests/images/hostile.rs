//! Layers made to get out of their directory, to exhaust the machine, or to be read differently by others.
//!
//! Each must give an error that names the entry, leave the host as it was and nothing in the store.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use agent::image::{Limits, Source, Store};
use tar::EntryType;
use tests::Scratch;
use tests::image::{BUSYBOX, Layer, Layout, header};

use super::{block_on, chain, contents, load, open};

/// A directory of the host that no layer may touch.
fn canary(scratch: &Scratch) -> String {
    let canary = scratch.path("canary");
    fs::create_dir(&canary).unwrap();
    fs::write(canary.join("file"), "untouched").unwrap();
    fs::set_permissions(&canary, fs::Permissions::from_mode(0o750)).unwrap();
    canary.to_str().unwrap().to_owned()
}

fn assert_untouched(canary: &str) {
    let canary = Path::new(canary);
    assert_eq!(fs::read(canary.join("file")).unwrap(), b"untouched");
    assert_eq!(fs::metadata(canary).unwrap().permissions().mode() & 0o7777, 0o750);
    assert_eq!(fs::metadata(canary.join("file")).unwrap().nlink(), 1);
    assert_eq!(fs::read_dir(canary).unwrap().count(), 1);
}

/// PAX records as `key=value`, in a header of their own.
fn pax(layer: &mut Layer, kind: EntryType, records: &[(&str, &str)]) {
    let record = |(key, value): &(&str, &str)| {
        let body = key.len() + value.len() + 3;
        let length = (body + 1..)
            .find(|length| length.to_string().len() + body == *length)
            .unwrap();
        format!("{length} {key}={value}\n")
    };
    let records: String = records.iter().map(record).collect();
    layer.entry("pax", kind, 0o644, records.as_bytes()).unwrap();
}

#[test]
fn layers_cannot_leave_their_directory() {
    tests::require_root!();
    let scratch = Scratch::new("hostile");
    let outside = canary(&scratch);
    let store = open(&scratch);
    type Fill<'a> = Box<dyn Fn(&mut Layer) -> anyhow::Result<()> + 'a>;
    let file = |path: &'static str| -> Fill<'_> { Box::new(move |layer| layer.file(path, 0o644, b"x")) };
    let link_to = |path: &'static str, kind, target: String| -> Fill<'_> {
        Box::new(move |layer| {
            let is_symbolic = kind == EntryType::Symlink;
            if is_symbolic {
                layer.symlink(path, &target)
            } else {
                layer.hard_link(path, &target)
            }
        })
    };
    let through = |then: Fill<'static>| -> Fill<'_> {
        let outside = outside.clone();
        Box::new(move |layer| {
            layer.symlink("link", &outside)?;
            then(layer)
        })
    };
    let cases: Vec<(Fill<'_>, &str)> = vec![
        (
            file("../escape"),
            r#"entry "../escape": its name climbs out through `..`"#,
        ),
        (file("a/../../escape"), "climbs out"),
        (file("./.."), "climbs out"),
        (file("/etc/escape"), r#"entry "/etc/escape": its name is absolute"#),
        (file(""), "is empty"),
        (file("trailing/"), "whose name ends in a slash"),
        (
            through(file("link/file")),
            r#"entry "link/file": its path leads through a symbolic link"#,
        ),
        (through(file("link/deep/file")), "leads through a symbolic link"),
        (
            through(Box::new(|layer| layer.directories(&["link"], 0o777))),
            "a directory in place of something else",
        ),
        (
            through(Box::new(|layer| layer.directories(&["link/made"], 0o777))),
            "leads through a symbolic link",
        ),
        (through(file("link/.wh.file")), ""),
        (through(file("link/.wh..wh..opq")), "leads through a symbolic link"),
        (
            through(Box::new(|layer| layer.hard_link("hard", "link/file"))),
            r#"entry "hard": its path leads through a symbolic link"#,
        ),
        (
            link_to("hard", EntryType::Link, format!("{outside}/file")),
            "its link target is absolute",
        ),
        (
            link_to("hard", EntryType::Link, "../../canary/file".to_owned()),
            "its link target climbs out",
        ),
        (
            link_to("hard", EntryType::Link, "missing".to_owned()),
            "its link target is not a file of the same layer",
        ),
        (
            link_to("hard", EntryType::Link, "missing/file".to_owned()),
            "its link target is not a file of the same layer",
        ),
        (
            link_to("hard", EntryType::Link, ".".to_owned()),
            "its link target is not a file of the same layer",
        ),
        (link_to("empty", EntryType::Symlink, String::new()), "a bad link target"),
        (
            file(".wh.."),
            "a whiteout that names nothing, or its own directory or parent",
        ),
        (
            file(".wh..."),
            "a whiteout that names nothing, or its own directory or parent",
        ),
        (
            file("a/.wh."),
            "a whiteout that names nothing, or its own directory or parent",
        ),
        (
            link_to(".", EntryType::Symlink, "x".to_owned()),
            "the layer's root can only be a directory",
        ),
        (
            Box::new(|layer| {
                layer.file("file", 0o644, b"")?;
                layer.file("file/below", 0o644, b"")
            }),
            "leads through something that is not a directory",
        ),
        (
            Box::new(|layer| {
                layer.file("full/file", 0o644, b"")?;
                layer.file("full", 0o644, b"")
            }),
            "would replace a directory that is not empty",
        ),
    ];
    for (fill, expected) in cases {
        let mut layer = Layer::default();
        fill(&mut layer).unwrap();
        let loaded = load(&store, &super::layout(&scratch.path("layout"), vec![layer]));
        assert_untouched(&outside);
        if expected.is_empty() {
            // A whiteout where nothing is below hides nothing and is left out.
            loaded.unwrap();
            block_on(store.remove(&super::name(BUSYBOX))).unwrap();
        } else {
            let error = chain(loaded.expect_err(expected));
            assert!(
                error.starts_with("unpack layer blobs/sha256/") && error.contains(expected),
                "{error}"
            );
        }
        assert_eq!(
            contents(&scratch.path("store")),
            BTreeSet::new(),
            "nothing stays of {expected}"
        );
    }
}

#[test]
fn what_readers_of_tar_disagree_on_is_refused() {
    tests::require_root!();
    let scratch = Scratch::new("ambiguous");
    let store = open(&scratch);
    type Fill = fn(&mut Layer) -> anyhow::Result<()>;
    let cases: Vec<(Fill, &str)> = vec![
        (
            |layer| {
                pax(layer, EntryType::XHeader, &[("size", "0")]);
                layer.file("a", 0o644, b"content")
            },
            r#"entry "a": its headers state two different sizes"#,
        ),
        (
            |layer| {
                pax(layer, EntryType::XHeader, &[("path", "one")]);
                layer.entry("././@LongLink", EntryType::GNULongName, 0o644, b"two\0")?;
                layer.file("three", 0o644, b"")
            },
            "named by PAX and by GNU headers at once",
        ),
        (
            |layer| {
                pax(layer, EntryType::XHeader, &[("path", "one")]);
                pax(layer, EntryType::XHeader, &[("path", "two")]);
                layer.file("three", 0o644, b"")
            },
            "two extended headers of one kind",
        ),
        (
            |layer| {
                pax(layer, EntryType::XHeader, &[("path", "one"), ("path", "two")]);
                layer.file("three", 0o644, b"")
            },
            "bad extended header: the key path twice",
        ),
        (
            |layer| {
                pax(layer, EntryType::XHeader, &[("path", "../escape")]);
                layer.file("harmless", 0o644, b"")
            },
            r#"entry "../escape": its name climbs out"#,
        ),
        (
            |layer| {
                layer.entry("././@LongLink", EntryType::GNULongName, 0o644, b"../escape\0")?;
                layer.file("harmless", 0o644, b"")
            },
            r#"entry "../escape": its name climbs out"#,
        ),
        (
            |layer| {
                layer.entry("././@LongLink", EntryType::GNULongName, 0o644, b"a\0b\0")?;
                layer.file("harmless", 0o644, b"")
            },
            "NUL byte",
        ),
        (
            |layer| {
                pax(layer, EntryType::XGlobalHeader, &[("path", "everything")]);
                layer.file("a", 0o644, b"")
            },
            "a global extended header that renames",
        ),
        (
            |layer| {
                pax(layer, EntryType::XHeader, &[("GNU.sparse.realsize", "1")]);
                layer.file("a", 0o644, b"")
            },
            "sparse",
        ),
        (
            |layer| {
                pax(layer, EntryType::XHeader, &[("path", "nothing follows")]);
                Ok(())
            },
            "an extended header without an entry",
        ),
        (
            |layer| layer.entry("a", EntryType::GNUSparse, 0o644, b""),
            "a sparse file",
        ),
        (
            |layer| layer.entry("a", EntryType::new(b'V'), 0o644, b""),
            "a kind of entry that layers can't have",
        ),
        (
            |layer| layer.entry("a", EntryType::Directory, 0o755, b"content"),
            "content behind a header that can have none",
        ),
        (
            |layer| layer.entry("a", EntryType::GNULongName, 0o644, &vec![b'a'; (1 << 20) + 1]),
            "more than 1 MiB",
        ),
        (|layer| layer.file(&"d/".repeat(49), 0o644, b""), "ends in a slash"),
    ];
    for (fill, expected) in cases {
        let mut layer = Layer::default();
        fill(&mut layer).unwrap();
        let error = load(&store, &super::layout(&scratch.path("layout"), vec![layer])).expect_err(expected);
        let error = chain(error);
        assert!(error.contains(expected), "{error}");
        assert_eq!(contents(&scratch.path("store")), BTreeSet::new());
    }
}

#[test]
fn limits_hold() {
    tests::require_root!();
    let scratch = Scratch::new("limits");
    let limits = Limits {
        entries: 10,
        bytes: 1 << 20,
        ratio: 20,
        free_bytes: 128 << 10,
    };
    let store = Store::open_with(&scratch.path("store"), limits).unwrap();
    let load = |layout: Layout| {
        let path = layout.write(&scratch.path("layout")).unwrap();
        block_on(store.load(Source::Path(path), None)).map_err(chain)
    };
    let zeros = |count: usize| {
        let mut layer = Layer::default();
        layer.file("zeros", 0o644, &vec![0; count]).unwrap();
        layer.finish().unwrap()
    };
    let many = |count: usize| {
        let mut layer = Layer::default();
        (0..count).for_each(|i| layer.file(&format!("f{i}"), 0o644, b"").unwrap());
        layer.finish().unwrap()
    };
    let new = || Layout::new(BUSYBOX);
    load(new().gzip(&zeros(100 << 10)).unwrap()).expect("a small layer may shrink as much as it likes");
    load(new().plain(many(10))).expect("as many entries as allowed");
    block_on(store.remove(&super::name(BUSYBOX))).unwrap();
    for (layout, expected) in [
        (new().plain(many(11)), "more entries than the limit of 10"),
        (
            new().gzip(&zeros(512 << 10)).unwrap(),
            "unpacks to more than the 131072 bytes allowed for its size",
        ),
        (new().plain(zeros(2 << 20)), "unpacks to more than the 1048576 bytes"),
    ] {
        let error = load(layout).expect_err(expected);
        assert!(error.contains(expected), "{error}");
        assert_eq!(contents(&scratch.path("store")), BTreeSet::new());
    }
}

#[test]
fn damaged_layers_are_refused() {
    tests::require_root!();
    let scratch = Scratch::new("damaged-layers");
    let store = open(&scratch);
    let tar = || {
        let mut layer = Layer::default();
        layer.file("a", 0o644, &[b'a'; 2000]).unwrap();
        layer.finish().unwrap()
    };
    let id = |tar: &[u8]| tests::image::digest(tar);
    let (whole, other) = (tar(), id(b"something else"));
    let (truncated, almost_whole) = (whole[..1000].to_vec(), whole[..512 + 1999].to_vec());
    let trailing = [&whole[..], b"junk"].concat();
    let mut checksum = whole.clone();
    checksum[150] ^= 1;
    let gzip = |tar: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, tar).unwrap();
        encoder.finish().unwrap()
    };
    let half = |bytes: Vec<u8>| bytes[..bytes.len() / 2].to_vec();
    let zstd_window = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xf8, 0, 0, 0];
    for (bytes, diff_id, expected) in [
        (
            whole.clone(),
            other.clone(),
            format!("has the digest {}, the image's configuration says {other}", id(&whole)),
        ),
        (
            truncated.clone(),
            id(&truncated),
            r#"entry "a": its content ends early"#.to_owned(),
        ),
        (
            almost_whole.clone(),
            id(&almost_whole),
            "unexpected end of file".to_owned(),
        ),
        (trailing.clone(), id(&trailing), "followed by other data".to_owned()),
        (checksum.clone(), id(&checksum), "checksum mismatch".to_owned()),
        (half(gzip(&whole)), id(&whole), "read the layer's tar: ".to_owned()),
        (
            [gzip(&whole), b"junk".to_vec()].concat(),
            id(&whole),
            "read the layer's tar: ".to_owned(),
        ),
        (zstd_window, id(&whole), "Frame requires too much memory".to_owned()),
    ] {
        let layout = Layout::new(BUSYBOX).layer(bytes, "application/vnd.oci.image.layer.v1.tar", &diff_id);
        let error = chain(load(&store, &layout.write(&scratch.path("layout")).unwrap()).expect_err(&expected));
        assert!(error.contains(&expected), "expected {expected:?} in {error:?}");
        assert_eq!(contents(&scratch.path("store")), BTreeSet::new());
    }
}

#[test]
fn a_blob_that_was_changed_on_disk_is_refused() {
    tests::require_root!();
    let scratch = Scratch::new("changed-blob");
    let store = open(&scratch);
    let layer = Layer::default().finish().unwrap();
    let layout = Layout::new(BUSYBOX).plain(layer);
    let dir = layout.write(&scratch.path("layout")).unwrap();
    let blob = dir.join("blobs").join(layout.layer_digests()[0].replace(':', "/"));
    fs::write(&blob, "something else").unwrap();
    let error = chain(load(&store, &dir).unwrap_err());
    assert!(
        error.contains("has the digest") && error.contains("its manifest says"),
        "{error}"
    );
    fs::remove_file(&blob).unwrap();
    let error = chain(load(&store, &dir).unwrap_err());
    assert!(
        error.contains("blobs/sha256/") && error.contains("is missing"),
        "{error}"
    );
    std::os::unix::fs::symlink("/etc/passwd", &blob).unwrap();
    let error = chain(load(&store, &dir).unwrap_err());
    assert!(
        error.contains("Invalid cross-device link"),
        "a link out of the layout is not followed: {error}"
    );
    assert_eq!(contents(&scratch.path("store")), BTreeSet::new());
}

#[test]
fn special_files_owners_times_and_attributes_are_kept_as_far_as_they_may_be() {
    tests::require_root!();
    let scratch = Scratch::new("special-files");
    let store = open(&scratch);
    let mut layer = Layer::default();
    let attributes = [
        ("SCHILY.xattr.user.mine", "kept"),
        ("SCHILY.xattr.trusted.overlay.opaque", "y"),
        ("SCHILY.xattr.user.overlay.opaque", "y"),
        ("SCHILY.xattr.security.selinux", "dropped"),
        ("mtime", "1700000000.5"),
        ("uid", "123456"),
    ];
    pax(&mut layer, EntryType::XHeader, &attributes);
    layer.directories(&["dir"], 0o2750).unwrap();
    let mut device = header("null", EntryType::Char, 0o666).unwrap();
    device.set_device_major(1).unwrap();
    device.set_device_minor(3).unwrap();
    layer.raw(device, b"").unwrap();
    layer.entry("fifo", EntryType::Fifo, 0o622, b"").unwrap();
    layer.file("dir/setuid", 0o4755, b"x").unwrap();
    layer.hard_link("dir/again", "dir/setuid").unwrap();
    layer.symlink("dir/link", "/etc/passwd").unwrap();
    layer.hard_link("dir/same-link", "dir/link").unwrap();

    let image = load(&store, &super::layout(&scratch.path("layout"), vec![layer]))
        .unwrap()
        .remove(0);

    let root = &image.layers[0];
    let stat = |path: &str| fs::symlink_metadata(root.join(path)).unwrap();
    let directory = stat("dir");
    assert_eq!((directory.uid(), directory.mode() & 0o7777), (123_456, 0o2750));
    assert_eq!(
        (directory.mtime(), directory.mtime_nsec()),
        (1_700_000_000, 500_000_000)
    );
    assert_eq!(stat("null").rdev(), rustix::fs::makedev(1, 3));
    assert!(stat("null").file_type().is_char_device() && stat("null").mode() & 0o7777 == 0o666);
    assert!(stat("fifo").file_type().is_fifo() && stat("fifo").mode() & 0o7777 == 0o622);
    assert_eq!(stat("dir/setuid").mode() & 0o7777, 0o4755);
    assert_eq!(stat("dir/again").ino(), stat("dir/setuid").ino());
    assert!(stat("dir/same-link").file_type().is_symlink());
    assert_eq!(fs::read_link(root.join("dir/link")).unwrap(), Path::new("/etc/passwd"));
    let mut names = vec![0; 1024];
    let length = rustix::fs::listxattr(root.join("dir"), &mut names).unwrap();
    let names = String::from_utf8(names[..length].to_vec()).unwrap();
    let names: Vec<_> = names.split_terminator('\0').collect();
    assert!(names.iter().all(|name| *name == "user.mine"), "{names:?}");
}

#[test]
fn a_device_that_would_be_a_whiteout_is_refused() {
    tests::require_root!();
    let scratch = Scratch::new("whiteout-device");
    let store = open(&scratch);
    let mut layer = Layer::default();
    let mut device = header("etc/passwd", EntryType::Char, 0o666).unwrap();
    device.set_device_major(0).unwrap();
    device.set_device_minor(0).unwrap();
    layer.raw(device, b"").unwrap();
    let error = chain(load(&store, &super::layout(&scratch.path("layout"), vec![layer])).unwrap_err());
    assert!(error.contains("a character device 0:0"), "{error}");
}
