//! The image store on a real file system, against real registries and real tools.

use tests::Scratch;

#[test]
fn busybox_is_made_the_same_twice() {
    let scratch = Scratch::new("busybox-image");
    let [one, two] = ["one", "two"].map(|name| tests::image::busybox(&scratch.path(name)).unwrap());
    let index = |dir: &std::path::Path| std::fs::read(dir.join("index.json")).unwrap();
    assert_eq!(index(&one), index(&two));
}
