// Names of images. The rules are those of the server: src/web/pasted.rs and src/oci/image_name.rs.

const WORDS = new Set(("sudo docker podman nerdctl ctr crictl skopeo crane helm oras image images pull run copy " +
  "create inspect from image:").split(" "));
const OPTIONS = new Set(["--platform", "--version", "--namespace", "-n", "--name", "--network"]);
const SCHEMES = ["docker://", "oci://", "https://", "http://"];
const HUB = ["docker.io", "index.docker.io", "registry-1.docker.io", "registry.docker.io", "registry.hub.docker.com"];
const REPOSITORY = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:\/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$/;
const TAG = /^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$/;
const DIGEST = /^(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$/;
const LABEL = /^(?!-)[A-Za-z0-9_-]{1,63}(?<!-)$/;
const PORT = /^[1-9][0-9]{0,4}$/;

/** Returns the first word that is neither a command nor an option. */
function nameIn(text) {
  const words = text.split(/[ \t\n\f\r]+/).filter(Boolean);
  let isValue = false;
  const rest = words.filter((word) => {
    const skipped = isValue || word.startsWith("-") || WORDS.has(word.toLowerCase());
    isValue = !isValue && OPTIONS.has(word);
    return !skipped;
  });
  const word = (rest[0] ?? words.at(-1) ?? "").replace(/^["'`]+|["'`]+$/g, "");
  const scheme = SCHEMES.find((known) => word.startsWith(known));
  return scheme ? word.slice(scheme.length) : word;
}

const isPort = (text) => PORT.test(text) && Number(text) <= 65535;

/** Returns host and port of `host_port`, or null. */
function splitUnderscore(text) {
  const at = text.lastIndexOf("_");
  if (at < 0) return null;
  const host = text.slice(0, at);
  const named = host.includes(".") || host.toLowerCase() === "localhost";
  return named && !/[:[]/.test(host) && isPort(text.slice(at + 1)) ? [host, text.slice(at + 1)] : null;
}

/** Returns the canonical name of a registry, or null. */
function registryOf(text) {
  const split = splitUnderscore(text);
  const at = text.lastIndexOf(":");
  const [host, port] = split ?? (at >= 0 ? [text.slice(0, at), text.slice(at + 1)] : [text, null]);
  const isHost = host.length <= 253 && host.split(".").every((label) => LABEL.test(label));
  if (!isHost || (port !== null && !isPort(port))) return null;
  const name = (port === null || port === "443" ? host : `${host}:${port}`).toLowerCase();
  return HUB.includes(name) ? "docker.io" : name;
}

const looksLikeRegistry = (part) => /[.:]/.test(part) || part === "localhost" || splitUnderscore(part) !== null;

/** Returns registry, repository, and tag or digest of a text, or null without a name. */
export function parseImage(text, authority) {
  let name = nameIn(text.slice(0, 2048));
  if (name.startsWith(`${authority}/`)) name = name.slice(authority.length + 1);
  const [rest, digest] = name.includes("@") ? [name.slice(0, name.indexOf("@")), name.slice(name.indexOf("@") + 1)] : [name, null];
  const colon = rest.indexOf(":", rest.lastIndexOf("/") + 1);
  const path = colon < 0 ? rest : rest.slice(0, colon);
  const tag = colon < 0 ? null : rest.slice(colon + 1);
  const slash = path.indexOf("/");
  const named = slash >= 0 && looksLikeRegistry(path.slice(0, slash));
  const registry = named ? registryOf(path.slice(0, slash)) : "docker.io";
  let repository = named ? path.slice(slash + 1) : path;
  if (registry === null) return null;
  if (registry === "docker.io" && !repository.includes("/")) repository = `library/${repository}`;
  if (repository.length > 255 || !REPOSITORY.test(repository)) return null;
  if (tag !== null && !TAG.test(tag)) return null;
  if (digest !== null && !DIGEST.test(digest)) return null;
  return { registry, repository, tag: digest === null ? (tag ?? "latest") : null, digest };
}

/** Returns the values of the places in commands, or null if no image name can contain the registry. */
export function placesOf(image, authority) {
  const at = image.registry.lastIndexOf(":");
  const part = at < 0 ? image.registry : `${image.registry.slice(0, at)}_${image.registry.slice(at + 1)}`;
  if (registryOf(part) !== image.registry || (at >= 0 && splitUnderscore(part) === null)) return null;
  const suffix = image.digest === null ? `:${image.tag}` : `@${image.digest}`;
  const repository = `${authority}/${part}/${image.repository}`;
  return {
    reference: repository + suffix,
    repository,
    original: `${image.registry}/${image.repository}${suffix}`,
    tag: image.tag ?? "",
  };
}
