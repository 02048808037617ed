// A cache for the checks: its process, its ports and its token.
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdir, writeFile } from "node:fs/promises";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

export const TOKENS = { read: "token-of-a-reader", operate: "token-of-an-operator" };
const START_MS = 60000;

export async function freePort() {
  const server = net.createServer();
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Returns an address of this machine other than loopback, or null. */
export function machineAddress() {
  const all = Object.values(os.networkInterfaces()).flat();
  return all.find((one) => one.family === "IPv4" && !one.internal)?.address ?? null;
}

export class Cache {
  constructor({ binary, directory, registryPort, settings = {} }) {
    Object.assign(this, { binary, directory, registryPort, settings });
  }

  async prepare() {
    await mkdir(path.join(this.directory, "store"), { recursive: true });
    const digest = (token) => createHash("sha256").update(token).digest("hex");
    const lines = Object.entries(TOKENS).map(([role, token]) => `${role} ${role} ${digest(token)}`);
    await writeFile(path.join(this.directory, "tokens"), `${lines.join("\n")}\n`);
    const names = ["docker.io", "ghcr.io", "quay.io", "registry.k8s.io"];
    const registries = names.map((name) => `  - {name: "${name}", url: "http://127.0.0.1:${this.registryPort}"}`);
    await writeFile(path.join(this.directory, "cache.yml"), `registries:\n${registries.join("\n")}\n`);
    this.port = await freePort();
    this.adminPort = await freePort();
  }

  get url() {
    return `http://127.0.0.1:${this.port}`;
  }
  get adminUrl() {
    return `http://127.0.0.1:${this.adminPort}`;
  }

  async start() {
    this.process = spawn(this.binary, [], {
      env: {
        PATH: process.env.PATH,
        LISTEN_ADDR: `:${this.port}`,
        ADMIN_ADDR: `127.0.0.1:${this.adminPort}`,
        ADMIN_TOKENS_FILE: path.join(this.directory, "tokens"),
        CONFIG_FILE: path.join(this.directory, "cache.yml"),
        FS_ROOT: path.join(this.directory, "store"),
        STORAGE_BACKEND: "fs",
        CACHE_MIN_FREE: "0",
        CACHE_MAX_SIZE: "256MiB",
        DRAIN_TIMEOUT: "1s",
        ...this.settings,
      },
      stdio: ["ignore", "ignore", "ignore"],
    });
    this.ended = new Promise((resolve) => this.process.once("exit", resolve));
    for (const began = Date.now(); ; await sleep(50)) {
      const answers = await Promise.all([fetch(`${this.url}/readyz`), fetch(`${this.adminUrl}/health`)]).catch(() => []);
      if (answers.length === 2 && answers.every((answer) => answer.ok)) return;
      if (this.process.exitCode !== null) throw new Error(`the cache ended with code ${this.process.exitCode}`);
      if (Date.now() - began > START_MS) throw new Error("the cache does not answer");
    }
  }

  async stop() {
    if (!this.process || this.process.exitCode !== null) return;
    this.process.kill("SIGKILL");
    await this.ended;
  }

  /** Pulls the index, the manifests and the blobs of an image, like a client. */
  async pull(registry, { repository, tag, manifests }, { userAgent = "checks", skip = [] } = {}) {
    const base = `${this.url}/v2/${registry}/${repository}`;
    const headers = { "User-Agent": userAgent, Accept: "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json" };
    const read = async (target) => {
      const response = await fetch(`${base}/${target}`, { headers });
      await response.arrayBuffer();
      if (!response.ok) throw new Error(`${base}/${target}: status ${response.status}`);
    };
    await read(`manifests/${tag}`);
    for (const manifest of manifests) {
      await read(`manifests/${manifest.digest}`);
      for (const digest of manifest.blobs) if (!skip.includes(digest)) await read(`blobs/${digest}`);
    }
  }

  async api(target) {
    const response = await fetch(`${this.adminUrl}${target}`, { headers: { Authorization: `Bearer ${TOKENS.operate}` } });
    return response.json();
  }

  /** Waits until `condition` is true of the answer to `target`. */
  async until(target, condition) {
    for (const began = Date.now(); ; await sleep(50)) {
      if (condition(await this.api(target))) return;
      if (Date.now() - began > START_MS) throw new Error(`${target} never met the condition`);
    }
  }
}
