// The images of the checks and of the screenshots.

const LINUX = [{ os: "linux", architecture: "amd64" }, { os: "linux", architecture: "arm64", variant: "v8" }];
const ONE = LINUX.slice(0, 1);

const IMAGES = [
  ["docker.io", "library/alpine", "3.20", [3400000], LINUX],
  ["docker.io", "library/nginx", "1.27", [6200000, 2100000, 800], LINUX],
  ["docker.io", "library/postgres", "17", [9400000, 5300000, 42000], ONE],
  ["docker.io", "library/python", "3.13-slim", [7800000, 3600000], LINUX],
  ["docker.io", "library/python", "3.14-slim", [7800000, 3700000], LINUX],
  ["docker.io", "grafana/grafana", "12.1.0", [8800000, 4700000, 91000], ONE],
  ["ghcr.io", "fluxcd/source-controller", "v1.6.1", [5200000], LINUX],
  ["ghcr.io", "astral-sh/uv", "0.9", [6900000], LINUX],
  ["quay.io", "prometheus/prometheus", "v3.5.0", [9900000, 120000], ONE],
  ["quay.io", "cilium/cilium", "v1.18.2", [9700000, 610000], LINUX],
  ["registry.k8s.io", "pause", "3.10", [320000], LINUX],
  ["registry.k8s.io", "coredns/coredns", "v1.12.4", [4100000], LINUX],
];

/** Pulls the images of the table through the cache, some of them twice. */
export async function seedImages(registry, cache) {
  for (const [at, [host, repository, tag, sizes, platforms]] of IMAGES.entries()) {
    const image = registry.addImage({ repository, tag, sizes, platforms });
    const skip = repository === "library/postgres" ? image.manifests[0].blobs.slice(-1) : [];
    for (let round = 0; round < 2 + (at % 4); round += 1) await cache.pull(host, image, { skip });
  }
}

/** Texts that are markup or code in a careless page. */
export function hostileTexts(count) {
  const parts = [
    "<script>window.hit=1</script>", "<img src=x onerror=window.hit=1>", "\"><svg onload=window.hit=1>", "'onfocus=window.hit=1 autofocus='",
    "javascript:window.hit=1", "</textarea><script>window.hit=1</script>", "<iframe srcdoc='<script>top.hit=1</script>'>", "{{constructor.constructor('window.hit=1')()}}",
    "${window.hit=1}", "<style>*{background:red}</style>", "<a href='javascript:window.hit=1'>x</a>", "<!--<img src='--><img src=x onerror=window.hit=1>'",
    "\u202egnp.exe", "<math><mtext><img src=x onerror=window.hit=1>", "<base href=http://evil.example>", "&lt;script&gt;window.hit=1&lt;/script&gt;",
    "<details open ontoggle=window.hit=1>", "<form action=javascript:window.hit=1><input type=submit>", "<meta http-equiv=refresh content='0;url=http://evil.example'>", "<link rel=stylesheet href=http://evil.example/x.css>",
  ];
  return Array.from({ length: count }, (_, at) => `${parts[at % parts.length]}${at}`);
}

/** Names that the grammar of tags and repositories permits, and that mean something to scripts. */
const NAMES = ["__proto__", "constructor", "toString", "hasOwnProperty", "prototype", "valueOf", "script", "javascript.alert-1", "onerror", "null", "undefined", "NaN"];

/** Pulls images with hostile platforms, annotations, tags and user agents. */
export async function seedHostile(registry, cache, count) {
  for (const [at, text] of hostileTexts(count).entries()) {
    const image = registry.addImage({
      repository: `hostile/${["script", "img", "svg", "a"][at % 4]}${at}`,
      tag: `${NAMES[at % NAMES.length]}${at < NAMES.length ? "" : at}`,
      sizes: [64],
      platforms: [{ os: text, architecture: text, variant: text }],
      annotations: { "org.opencontainers.image.title": text, [text]: text },
    });
    const userAgent = /^[\x20-\x7e]*$/.test(text) ? text : "checks";
    await cache.pull("quay.io", image, { userAgent });
  }
}
