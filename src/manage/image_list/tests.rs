//! Lists of images in each form, with mistakes, and hostile lists.

use proptest::prelude::*;

use super::*;

fn images(text: &str) -> Vec<String> {
    let list = ImageList::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(list.mistakes, [], "{text}");
    list.images
}

fn pod(kind: &str, spec: &str) -> String {
    format!("apiVersion: v1\nkind: {kind}\nmetadata: {{name: a}}\nspec:\n{spec}")
}

const POD_SPEC: &str = "  containers:\n  - {name: a, image: 'quay.io/a/b:v1'}\n  initContainers:\n  - name: i\n    image: redis\n";

#[test]
fn each_form_of_a_list_gives_the_same_images() {
    let expected = ["quay.io/a/b:v1", "docker.io/library/redis"];
    let pod_json = r#"{"kind": "Pod", "spec": {"containers": [{"image": "quay.io/a/b:v1"}],
        "ephemeralContainers": [{"image": "redis", "name": "x"}]}}"#;
    let template = pod(
        "Deployment",
        "  template:\n    spec:\n      containers:\n      - image: quay.io/a/b:v1\n",
    );
    let cron = pod(
        "CronJob",
        "  jobTemplate:\n    spec:\n      template:\n        spec:\n          containers:\n          - image: redis\n",
    );
    for text in [
        // Lists of names.
        "# list\n\nquay.io/a/b:v1\r\n  redis  \nquay.io/a/b:v1\n".to_owned(),
        "quay.io/a/b:v1 # why\nindex.docker.io/library/redis".to_owned(),
        "- quay.io/a/b:v1\n- redis\n".to_owned(),
        r#"["quay.io/a/b:v1", "redis"]"#.to_owned(),
        // Kubernetes objects.
        pod("Pod", POD_SPEC),
        pod_json.to_owned(),
        format!("{pod_json}\n{pod_json}"),
        format!("---\n# Source: chart/a.yaml\n{template}---\n---\n# Source: chart/b.yaml\n{cron}"),
        format!(r#"{{"apiVersion": "v1", "kind": "List", "items": [{pod_json}, {{"kind": "Service"}}]}}"#),
        format!("apiVersion: v1\nkind: List\nitems:\n- kind: Pod\n  spec:\n  {}", POD_SPEC.replace('\n', "\n  ")),
        pod(
            "Pod",
            "  containers:\n  - image: quay.io/a/b:v1\n  volumes:\n  - name: v\n    image: {reference: redis, pullPolicy: Always}\n",
        ),
        // A compose file.
        "services:\n  web: {image: quay.io/a/b:v1, ports: [80]}\n  db:\n    image: redis\n  own: {build: .}\n".to_owned(),
        // Lists of other tools.
        "kind: Images\nspec:\n  images:\n  - name: quay.io/a/b:v1\n  - name: redis\n".to_owned(),
        "kind: ZarfPackageConfig\ncomponents:\n- name: c\n  images:\n  - quay.io/a/b:v1\n  - redis\n".to_owned(),
        "mirror:\n  additionalImages:\n  - name: quay.io/a/b:v1\n  - name: redis\nkind: ImageSetConfiguration\n".to_owned(),
    ] {
        assert_eq!(images(&text), expected, "{text}");
    }
}

#[test]
fn values_with_other_meanings_are_no_images() {
    // A node lists the images that it has, and a status repeats images.
    let text = r#"{"kind": "List", "items": [
        {"kind": "Node", "status": {"images": [{"names": ["r.example/held"]}]}},
        {"kind": "Pod", "spec": {"containers": [{"image": "redis:7", "env": [{"name": "image", "value": "x"}]}]},
         "status": {"containerStatuses": [{"image": "sha256:abc", "imageID": "y"}]}},
        {"kind": "ConfigMap", "data": {"image": "no/image"}},
        {"kind": "Kustomization", "images": [{"name": "placeholder"}]}
    ]}"#;
    assert_eq!(images(text), ["docker.io/library/redis:7"]);
}

#[test]
fn mistakes_have_their_line_and_reason_and_do_not_hide_other_images() {
    let list = ImageList::parse(b"alpine:3\nUPPER\n\nr.example/a b\n").unwrap();
    assert_eq!(list.images, ["docker.io/library/alpine:3"]);
    let lines: Vec<_> = list
        .mistakes
        .iter()
        .map(|mistake| (mistake.line, &*mistake.text))
        .collect();
    assert_eq!(lines, [(2, "UPPER"), (4, "r.example/a b")]);
    assert_eq!(list.mistakes_count, 2);
    assert!(list.mistakes[0].why.contains("[registry/]repository"));
    let compose = "services:\n  web:\n    image: r.example/app:${TAG}\n  db:\n    image: 7.2\n";
    let list = ImageList::parse(compose.as_bytes()).unwrap();
    assert!(list.mistakes[0].why.contains("docker compose config"), "{list:?}");
    assert_eq!(list.mistakes[0].line, 3);
    let many = "UPPER\n".repeat(IMAGE_LIST_MISTAKES_MAX + 7);
    let list = ImageList::parse(many.as_bytes()).unwrap();
    assert_eq!(
        (list.mistakes.len(), list.mistakes_count),
        (IMAGE_LIST_MISTAKES_MAX, IMAGE_LIST_MISTAKES_MAX + 7)
    );
}

#[test]
fn other_content_is_an_error_with_its_cause() {
    let mut tar = vec![0; 512];
    tar[257..262].copy_from_slice(b"ustar");
    let many: Vec<String> = (0..=LOAD_IMAGES_MAX).map(|n| format!("a:{n}\n")).collect();
    for (bytes, part) in [
        (&b""[..], "names no image"),
        (b"# only a comment\n", "names no image"),
        (b"kind: ConfigMap\ndata: {a: b}\n", "names no image"),
        (b"{}", "names no image"),
        (&[0x1f, 0x8b, 8, 0], "gzip archive"),
        (&[0x28, 0xb5, 0x2f, 0xfd], "zstd archive"),
        (&tar, "tar archive"),
        (b"alpine\n\xff\n", "line 2 is not UTF-8"),
        (b"{\"a\":\n\n[}", "line 3"),
        (b"a: b\n  c: [\n", "expected one name"),
        (b"image: {{ .Values.image }}\nx: }}\n", "helm template"),
        (many.concat().as_bytes(), "more than"),
    ] {
        let error = ImageList::parse(bytes).unwrap_err().to_string();
        assert!(
            error.contains(part),
            "{:?}: {error}",
            String::from_utf8_lossy(bytes)
        );
    }
}

#[test]
fn hostile_documents_are_rejected() {
    let depth = 100_000;
    let aliases: String = (1..30)
        .map(|n| format!("a{n}: &a{n} [*a{}, *a{}]\n", n - 1, n - 1))
        .collect();
    for text in [
        "[".repeat(depth),
        "{\"a\":".repeat(depth),
        format!("a: {}", "[".repeat(depth)),
        format!("a0: &a0 [x]\n{aliases}"),
    ] {
        assert!(ImageList::parse(text.as_bytes()).is_err());
    }
}

proptest! {
    #[test]
    fn no_list_causes_a_panic(bytes in any::<Vec<u8>>()) {
        let _ = ImageList::parse(&bytes);
    }

    #[test]
    fn no_text_like_a_list_causes_a_panic(text in "([a-z/:@.\\-{}\\[\\]\"',&* #\n]|image|containers|services){0,200}") {
        let _ = ImageList::parse(text.as_bytes());
    }
}
