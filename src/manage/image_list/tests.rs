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

/// The output of `talosctl images` of Talos 1.8.
const TALOS: &str = "\
ghcr.io/siderolabs/flannel:v0.25.7
registry.k8s.io/coredns/coredns:v1.11.3
gcr.io/etcd-development/etcd:v3.5.16
registry.k8s.io/kube-apiserver:v1.31.2
registry.k8s.io/kube-controller-manager:v1.31.2
registry.k8s.io/kube-scheduler:v1.31.2
registry.k8s.io/kube-proxy:v1.31.2
ghcr.io/siderolabs/kubelet:v1.31.2
ghcr.io/siderolabs/installer:v1.8.3
registry.k8s.io/pause:3.8
";

/// `k3s-images.txt` of the release v1.31.2+k3s1.
const K3S: &str = "\
docker.io/rancher/klipper-helm:v0.9.3-build20241008
docker.io/rancher/klipper-lb:v0.4.9
docker.io/rancher/local-path-provisioner:v0.0.30
docker.io/rancher/mirrored-coredns-coredns:1.11.3
docker.io/rancher/mirrored-library-busybox:1.36.1
docker.io/rancher/mirrored-library-traefik:2.11.10
docker.io/rancher/mirrored-metrics-server:v0.7.2
docker.io/rancher/mirrored-pause:3.6
";

/// The output of `helm template` of ingress-nginx, shortened.
const HELM: &str = "\
---
# Source: ingress-nginx/templates/controller-serviceaccount.yaml
apiVersion: v1
kind: ServiceAccount
metadata:
  name: release-name-ingress-nginx
automountServiceAccountToken: true
---
# Source: ingress-nginx/templates/controller-deployment.yaml
apiVersion: apps/v1
kind: Deployment
spec:
  template:
    spec:
      containers:
        - name: controller
          image: registry.k8s.io/ingress-nginx/controller:v1.11.3@sha256:d56f135b6462cfc476447cfe564b83a45e8bb7da2774963b00d12161112270b7
          imagePullPolicy: IfNotPresent
          args:
            - /nginx-ingress-controller
            - --watch-ingress-without-class=true
---
# Source: ingress-nginx/templates/admission-webhooks/job-patch/job-createSecret.yaml
apiVersion: batch/v1
kind: Job
spec:
  template:
    spec:
      containers:
        - name: create
          image: registry.k8s.io/ingress-nginx/kube-webhook-certgen:v1.4.4@sha256:a9f03b34a3cbfbb26d103a14046ab2c5130a80c3d69d526ff8063d2b37b9fd3f
";

/// The output of `docker compose config` of two services.
const COMPOSE: &str = "\
name: app
services:
  db:
    environment:
      POSTGRES_PASSWORD: example
    image: postgres:17
    networks:
      default: null
  web:
    depends_on:
      db:
        condition: service_started
    image: ghcr.io/org/web:1.2
networks:
  default:
    name: app_default
";

/// A list of hauler, as in its documentation.
const HAULER: &str = "\
apiVersion: content.hauler.cattle.io/v1
kind: Images
metadata:
  name: hauler-content-images-example
spec:
  images:
    - name: busybox
    - name: neuvector/scanner:latest
      platform: linux/amd64
---
apiVersion: content.hauler.cattle.io/v1
kind: Charts
metadata:
  name: hauler-content-charts-example
spec:
  charts:
    - name: rancher
      repoURL: https://releases.rancher.com/server-charts/stable
";

/// A package of Zarf, as in its examples.
const ZARF: &str = "\
kind: ZarfPackageConfig
metadata:
  name: dos-games
  version: 1.1.0
components:
  - name: baseline
    required: true
    manifests:
      - name: multi-games
        namespace: dos-games
        files:
          - manifests/deployment.yaml
    images:
      - ghcr.io/zarf-dev/doom-game:0.0.1
";

/// A configuration of oc-mirror, as in the documentation of OpenShift.
const OC_MIRROR: &str = "\
apiVersion: mirror.openshift.io/v2alpha1
kind: ImageSetConfiguration
mirror:
  platform:
    channels:
    - name: stable-4.17
  operators:
  - catalog: registry.redhat.io/redhat/redhat-operator-index:v4.17
    packages:
    - name: aws-load-balancer-operator
  additionalImages:
  - name: registry.redhat.io/ubi9/ubi:latest
";

/// The output of `kubectl get pods -A -o json`, shortened.
const KUBECTL: &str = r#"{
    "apiVersion": "v1",
    "items": [{
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "coredns-7b98449c4-8x2ls", "namespace": "kube-system"},
        "spec": {
            "containers": [{
                "image": "rancher/mirrored-coredns-coredns:1.11.3",
                "name": "coredns",
                "volumeMounts": [{"mountPath": "/etc/coredns", "name": "config-volume"}]
            }],
            "volumes": [{"configMap": {"name": "coredns"}, "name": "config-volume"}]
        },
        "status": {"containerStatuses": [{
            "image": "docker.io/rancher/mirrored-coredns-coredns:1.11.3",
            "imageID": "docker.io/rancher/mirrored-coredns-coredns@sha256:82b57287b29beb757c740dbbe68f2d4723da94715b563fffad5c13438b71b14a"
        }]}
    }],
    "kind": "List",
    "metadata": {"resourceVersion": ""}
}"#;

#[test]
fn samples_of_real_tools_give_their_images() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    for (tool, text, expected) in [
        ("talosctl images", TALOS, lines(TALOS)),
        ("k3s-images.txt", K3S, lines(K3S)),
        (
            "helm template",
            HELM,
            names(&[
                "registry.k8s.io/ingress-nginx/controller@sha256:d56f135b6462cfc476447cfe564b83a45e8bb7da2774963b00d12161112270b7",
                "registry.k8s.io/ingress-nginx/kube-webhook-certgen@sha256:a9f03b34a3cbfbb26d103a14046ab2c5130a80c3d69d526ff8063d2b37b9fd3f",
            ]),
        ),
        (
            "docker compose config",
            COMPOSE,
            names(&["docker.io/library/postgres:17", "ghcr.io/org/web:1.2"]),
        ),
        (
            "hauler",
            HAULER,
            names(&["docker.io/library/busybox", "docker.io/neuvector/scanner:latest"]),
        ),
        ("zarf", ZARF, names(&["ghcr.io/zarf-dev/doom-game:0.0.1"])),
        (
            "oc-mirror",
            OC_MIRROR,
            names(&["registry.redhat.io/ubi9/ubi:latest"]),
        ),
        (
            "kubectl get pods",
            KUBECTL,
            names(&["docker.io/rancher/mirrored-coredns-coredns:1.11.3"]),
        ),
    ] {
        assert_eq!(images(text), expected, "{tool}");
    }
}
