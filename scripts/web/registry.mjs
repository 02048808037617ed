// A registry in this process, with made images. A blob of a slow repository comes in parts.
import { createHash } from "node:crypto";
import http from "node:http";

const INDEX = "application/vnd.oci.image.index.v1+json";
const MANIFEST = "application/vnd.oci.image.manifest.v1+json";
const digestOf = (bytes) => `sha256:${createHash("sha256").update(bytes).digest("hex")}`;

export class Registry {
  constructor() {
    this.blobs = new Map();
    this.manifests = new Map();
    this.remaining = 100;
    /** Resolves when the slow blobs may end. */
    this.slow = new Map();
    this.server = http.createServer((request, response) => this.answer(request, response));
  }

  async listen() {
    await new Promise((resolve) => this.server.listen(0, "127.0.0.1", resolve));
    return this.server.address().port;
  }

  close() {
    this.server.closeAllConnections();
    this.server.close();
  }

  addBlob(bytes) {
    const digest = digestOf(bytes);
    this.blobs.set(digest, bytes);
    return { digest, size: bytes.length };
  }

  addManifest(repository, body, mediaType, tag) {
    const bytes = Buffer.from(JSON.stringify(body));
    const digest = digestOf(bytes);
    const manifest = { bytes, mediaType, digest };
    this.manifests.set(`${repository} ${digest}`, manifest);
    if (tag) this.manifests.set(`${repository} ${tag}`, manifest);
    return { mediaType, digest, size: bytes.length };
  }

  /** Adds an image with a layer for each size. `platforms` are platforms of an index. */
  addImage({ repository, tag, sizes, platforms = [{ os: "linux", architecture: "amd64" }], annotations, seed = "" }) {
    const manifests = platforms.map((platform) => {
      const config = this.addBlob(Buffer.from(JSON.stringify({ ...platform, seed: `${repository} ${tag}` })));
      const layers = sizes.map((size, at) => ({
        mediaType: "application/vnd.oci.image.layer.v1.tar+gzip",
        ...this.addBlob(Buffer.alloc(size, `${seed || repository} ${at} ${at === 0 ? "" : tag}`)),
      }));
      const body = { schemaVersion: 2, mediaType: MANIFEST, config: { mediaType: "application/vnd.oci.image.config.v1+json", ...config }, layers, annotations };
      return { ...this.addManifest(repository, body, MANIFEST), platform, blobs: [config, ...layers].map((blob) => blob.digest) };
    });
    const listed = manifests.map(({ blobs, ...manifest }) => manifest);
    this.addManifest(repository, { schemaVersion: 2, mediaType: INDEX, manifests: listed, annotations }, INDEX, tag);
    return { repository, tag, manifests };
  }

  async answer(request, response) {
    const [, name, kind, reference] = /^\/v2\/(.+)\/(manifests|blobs)\/([^/?]+)/.exec(request.url) ?? [];
    if (!name) return response.writeHead(request.url.startsWith("/v2/") && !name ? 200 : 404).end("{}");
    if (kind === "manifests") {
      const manifest = this.manifests.get(`${name} ${reference}`);
      if (!manifest) return response.writeHead(404).end();
      if (request.method === "GET") this.remaining -= 1;
      response.writeHead(200, {
        "Content-Type": manifest.mediaType,
        "Content-Length": manifest.bytes.length,
        "Docker-Content-Digest": manifest.digest,
        "RateLimit-Limit": "100;w=21600",
        "RateLimit-Remaining": `${Math.max(9, this.remaining)};w=21600`,
      });
      return response.end(request.method === "HEAD" ? undefined : manifest.bytes);
    }
    const blob = this.blobs.get(reference);
    if (!blob) return response.writeHead(404).end();
    response.writeHead(200, { "Content-Type": "application/octet-stream", "Content-Length": blob.length });
    if (request.method === "HEAD") return response.end();
    const slow = this.slow.get(reference);
    if (!slow) return response.end(blob);
    response.write(blob.subarray(0, Math.floor(blob.length * slow.part)));
    await slow.end;
    response.end(blob.subarray(Math.floor(blob.length * slow.part)));
  }

  /** Makes a blob stop after a part of its bytes. Returns a function that lets the blob go on. */
  stopAfter(digest, part) {
    let goOn;
    const end = new Promise((resolve) => {
      goOn = resolve;
    });
    this.slow.set(digest, { part, end });
    return goOn;
  }
}
