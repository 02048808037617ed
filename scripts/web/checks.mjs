// Checks of the web page in a browser. Usage: node checks.mjs BINARY DIRECTORY
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { AxeBuilder } from "@axe-core/playwright";
import { isFile, openBrowser, openPage, signIn, SIZES } from "./browser.mjs";
import { Cache, machineAddress, TOKENS } from "./cache.mjs";
import { Registry } from "./registry.mjs";
import { seedHostile, seedImages } from "./seed.mjs";

const BYTES_MAX = 60 * 1024;
const REQUESTS_MAX = 10;
const HOSTILE = 200;
const IMAGE = "docker.io/library/nginx:1.27";
const IMAGE_VIEW = `#/image/${encodeURIComponent(IMAGE)}`;
const VIEWS = ["#/", "#/images", IMAGE_VIEW, "#/jobs"];

const [binary, directory] = process.argv.slice(2);
const registry = new Registry();
const browser = await openBrowser();
const cache = new Cache({ binary, directory, registryPort: await registry.listen() });
const notes = [];

/** Fails if a page has made a foreign request, has run into its policy or has thrown. */
function assertQuiet({ requests, violations, errors }, origin) {
  assert.deepEqual(requests.filter((url) => !url.startsWith(origin) && !url.startsWith("data:")), []);
  assert.deepEqual(violations, []);
  assert.deepEqual(errors, []);
}

async function openAdmin(options = {}, { token = TOKENS.operate, view = "#/" } = {}) {
  const opened = await openPage(browser, options);
  await opened.page.goto(`${cache.adminUrl}/`);
  if (token) await signIn(opened.page, token);
  if (token) await show(opened.page, view);
  return opened;
}

/** Opens a view, and waits for its content. */
async function show(page, view) {
  await page.evaluate((hash) => {
    location.hash = hash;
  }, view);
  const ready = { "#/": ".tile", "#/images": "tbody tr", [IMAGE_VIEW]: ".facts", "#/jobs": ".empty, .list" };
  await page.waitForSelector(ready[view] ?? ".facts");
}

const commandsOf = (page) => page.locator("#commands code").allTextContents();

const checks = {
  async "few small requests, none to another host"() {
    const pull = await openPage(browser);
    await pull.page.goto(`${cache.url}/`, { waitUntil: "networkidle" });
    const admin = await openAdmin();
    const files = (record) => record.requests.filter(isFile);
    for (const { record } of [pull, admin]) {
      assert.ok(files(record).length <= REQUESTS_MAX, files(record).join(" "));
      assert.ok(record.bytes <= BYTES_MAX, `${record.bytes} bytes`);
    }
    assertQuiet(pull.record, cache.url);
    assertQuiet(admin.record, cache.adminUrl);
    notes.push(`pull page ${pull.record.bytes} bytes in ${files(pull.record).length} requests`);
    notes.push(`admin page ${admin.record.bytes} bytes in ${files(admin.record).length} requests`);
    await Promise.all([pull.close(), admin.close()]);
  },

  async "the form works without a script, and the script finds the same names"() {
    const digest = `sha256:${"a".repeat(64)}`;
    const plain = await openPage(browser, { javaScriptEnabled: false });
    const scripted = await openPage(browser);
    await scripted.page.goto(`${cache.url}/`);
    for (const text of ["nginx", "docker pull nginx:1.27", `ghcr.io/x/y@${digest}`, `quay.io/a/b:v1@${digest}`, "registry.internal:5000/app", "registry:5000/app",
      "localhost/a", "sudo docker run --platform linux/arm64 -it alpine sh", "oci://ghcr.io/x/chart", "FROM golang:1.25", "A/B", "a b", "a..b", "<img src=x>",
      "index.docker.io/alpine", "Quay.io:443/a", "docker.io/a/b/c:T_1", "a:", "a@sha256:1", "registry.lan_5000/a", "x_y.lan:70000/a", `127.0.0.1:${cache.port}/quay.io/a/b`]) {
      await plain.page.goto(`${cache.url}/?image=${encodeURIComponent(text)}`);
      await scripted.page.fill("#image", "alpine:3.20");
      await scripted.page.fill("#image", text);
      assert.deepEqual(await plain.page.locator("#error").textContent(), await scripted.page.locator("#error").textContent(), text);
      if ((await plain.page.locator("#error").textContent()) === "") {
        const visible = (page) => page.locator(".command:not([hidden]) code[data-tag]").allTextContents();
        assert.deepEqual(await visible(plain.page), await visible(scripted.page), text);
      }
    }
    await plain.page.fill("#image", "docker pull quay.io/a/b:v2");
    await plain.page.click("label[for=tool-podman]");
    await plain.page.click("button[type=submit]");
    assert.ok((await commandsOf(plain.page)).includes(`podman pull --tls-verify=false 127.0.0.1:${cache.port}/quay.io/a/b:v2`));
    assert.ok(await plain.page.isVisible("[data-tool=podman]"));
    assertQuiet(scripted.record, cache.url);
    await Promise.all([plain.close(), scripted.close()]);
  },

  async "copy works over plain http by address, and in a secure context"() {
    const address = machineAddress();
    const hosts = [["127.0.0.1", ["clipboard-read", "clipboard-write"], true]];
    if (address) hosts.push([address, [], false]);
    else console.log("SKIP  web page: copy by an address other than loopback: the machine has no such address");
    for (const [host, permissions, isSecure] of hosts) {
      const { page, record, close } = await openPage(browser, { permissions });
      await page.goto(`http://${host}:${cache.port}/`);
      assert.equal(await page.evaluate(() => window.isSecureContext), isSecure);
      await page.fill("#image", "quay.io/a/b:v1");
      await page.click("[data-tool=docker] .copy >> nth=0");
      await page.waitForSelector(".copy.done");
      await page.fill("#image", "");
      await page.focus("#image");
      await page.keyboard.press("Control+V");
      assert.equal(await page.inputValue("#image"), `docker pull ${host}:${cache.port}/quay.io/a/b:v1`);
      assertQuiet(record, `http://${host}:${cache.port}`);
      await close();
    }
  },

  async "axe finds no violation in light and dark"() {
    let count = 0;
    const examine = async (page, name) => {
      const { violations } = await new AxeBuilder({ page }).analyze();
      assert.deepEqual(violations.map(({ id, nodes }) => `${name}: ${id}: ${nodes.map((node) => node.html).join(" ")}`), []);
      count += 1;
    };
    for (const scheme of ["light", "dark"]) {
      const pull = await openPage(browser, { scheme });
      await pull.page.goto(`${cache.url}/`);
      await examine(pull.page, "pull page");
      await pull.page.fill("#image", "<>");
      await examine(pull.page, "pull page with an error");
      const admin = await openAdmin({ scheme }, { token: "" });
      await examine(admin.page, "overview without a token");
      await admin.page.click("#access");
      await examine(admin.page, "form for a token");
      await signIn(admin.page, TOKENS.operate);
      for (const view of VIEWS) {
        await show(admin.page, view);
        await examine(admin.page, view);
      }
      await show(admin.page, IMAGE_VIEW);
      await admin.page.click("#remove");
      await admin.page.waitForSelector("dialog[open]");
      await examine(admin.page, "plan of a removal");
      await Promise.all([pull.close(), admin.close()]);
    }
    notes.push(`axe: 0 violations in ${count} views`);
  },

  async "an image is found, and its pin planned and cancelled, by keyboard alone"() {
    const { page, close } = await openAdmin({}, { token: "" });
    const tabTo = async (isThere) => {
      for (let presses = 0; presses < 60; presses += 1) {
        await page.keyboard.press("Tab");
        if (await page.evaluate(isThere)) return;
      }
      assert.fail(`not reached by Tab: ${isThere}`);
    };
    await page.waitForSelector(".tile");
    await page.evaluate(() => document.activeElement.blur());
    await tabTo(() => document.activeElement.id === "access");
    await page.keyboard.press("Enter");
    await page.keyboard.type(TOKENS.operate);
    await page.keyboard.press("Enter");
    await page.waitForSelector("#token", { state: "detached" });
    await tabTo(() => document.activeElement.textContent === "Images");
    await page.keyboard.press("Enter");
    await page.waitForSelector("tbody tr");
    await tabTo(() => document.activeElement.id === "search");
    await page.keyboard.type("nginx");
    await page.waitForFunction(() => document.querySelectorAll("tbody tr").length === 1);
    await tabTo(() => document.activeElement.textContent.includes("nginx"));
    await page.keyboard.press("Enter");
    await page.waitForSelector("#pin");
    await tabTo(() => document.activeElement.id === "pin");
    await page.keyboard.press("Enter");
    await page.waitForSelector("dialog[open]");
    assert.equal(await page.evaluate(() => document.activeElement.textContent), "Cancel");
    await page.keyboard.press("Enter");
    await page.waitForSelector("dialog", { state: "detached" });
    await page.keyboard.press("Enter");
    await page.waitForSelector("dialog[open]");
    await page.keyboard.press("Escape");
    await page.waitForSelector("dialog", { state: "detached" });
    assert.deepEqual((await cache.api("/api/v1/pins")).pins, []);
    await page.keyboard.press("Enter");
    await tabTo(() => document.activeElement.textContent === "Pin" && document.activeElement.closest("dialog"));
    await page.keyboard.press("Enter");
    await page.waitForSelector(".badge.accent");
    assert.deepEqual((await cache.api("/api/v1/pins")).pins, [IMAGE]);
    await page.click("#pin");
    await page.click("dialog .primary");
    await page.waitForSelector("main .badge.accent", { state: "detached" });
    await close();
  },

  async "a client without the role changes nothing"() {
    const { page, close } = await openAdmin({}, { token: TOKENS.read, view: IMAGE_VIEW });
    await page.click("#pin");
    await page.click("dialog .primary");
    await page.waitForSelector("#failure");
    await page.click("#remove");
    await page.waitForFunction(() => document.getElementById("failure").textContent.includes("role"));
    assert.deepEqual((await cache.api("/api/v1/pins")).pins, []);
    await close();
    const anonymous = await openAdmin({}, { token: "" });
    await anonymous.page.waitForSelector(".tile");
    await anonymous.page.evaluate(() => {
      location.hash = "#/images";
    });
    await anonymous.page.waitForSelector("#token");
    await anonymous.page.fill("#token", "wrong");
    await anonymous.page.click("form button.primary");
    await anonymous.page.waitForSelector("#token-problem:not([hidden])");
    await anonymous.close();
  },

  async "a removal shows its plan, and then removes the image"() {
    const image = registry.addImage({ repository: "library/removed", tag: "1", sizes: [70000] });
    await cache.pull("docker.io", image);
    const reference = "docker.io/library/removed:1";
    await cache.until("/api/v1/images?repository=library/removed", ({ images }) => images.some((one) => one.complete));
    const { page, close } = await openAdmin({}, { view: `#/image/${encodeURIComponent(reference)}` });
    await page.click("#remove");
    await page.waitForSelector("dialog[open]");
    assert.match(await page.textContent("dialog"), /docker\.io\/library\/removed:1/);
    await page.click("dialog .danger");
    await page.waitForSelector("#search");
    assert.equal((await cache.api("/api/v1/images?repository=library/removed&tag=1")).images.length, 0);
    await close();
  },

  async "a download appears within 2 s, and its bar is true within 5 %"() {
    const { page, close } = await openAdmin();
    const size = 4 << 20;
    const image = registry.addImage({ repository: "library/slow", tag: "1", sizes: [size], seed: "slow" });
    const digest = image.manifests[0].blobs[1];
    const part = 0.4;
    const goOn = registry.stopAfter(digest, part);
    const pulled = cache.pull("docker.io", image);
    // A failed check ends the cache, and with it the pull.
    pulled.catch(() => {});
    await cache.until("/api/v1/fills", ({ fills }) => fills.some((fill) => fill.digest === digest && fill.bytes >= Math.floor(size * part)));
    const began = Date.now();
    await page.waitForSelector("progress[aria-label='Download of library/slow']");
    const took = Date.now() - began;
    await page.waitForFunction((least) => document.querySelector("progress[aria-label='Download of library/slow']")?.position > least, part - 0.05);
    const position = await page.locator("progress[aria-label='Download of library/slow']").evaluate((bar) => bar.position);
    assert.ok(Math.abs(position - part) <= 0.05, `the bar shows ${position}`);
    goOn();
    await pulled;
    await page.waitForSelector("progress[aria-label='Download of library/slow']", { state: "detached" });
    notes.push(`a download appeared after ${took} ms`);
    await close();
  },

  async "a restart shows a banner, and the page connects again without a reload"() {
    const { page, record, close } = await openAdmin();
    const loads = () => record.requests.filter((url) => url === `${cache.adminUrl}/`).length;
    await cache.stop();
    await page.waitForSelector("#banner:not([hidden])");
    await cache.start();
    await page.waitForSelector("#banner", { state: "hidden" });
    await page.waitForSelector(".tile");
    assert.equal(loads(), 1);
    await close();
  },

  async "no view is wider than its screen"() {
    for (const size of [SIZES.small, SIZES.tablet]) {
      const pull = await openPage(browser, { size });
      const admin = await openAdmin({ size });
      const fits = async (page, name) => {
        const [content, screen] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
        assert.ok(content <= screen, `${name}: ${content} px on ${screen} px`);
      };
      await pull.page.goto(`${cache.url}/?image=quay.io/a/${"long-".repeat(40)}name`);
      await fits(pull.page, "pull page");
      for (const view of VIEWS) {
        await show(admin.page, view);
        await fits(admin.page, view);
      }
      await show(admin.page, IMAGE_VIEW);
      await admin.page.click("#remove");
      await admin.page.waitForSelector("dialog[open]");
      await fits(admin.page, "plan");
      await Promise.all([pull.close(), admin.close()]);
    }
  },

  async "hostile texts never become markup"() {
    await seedHostile(registry, cache, HOSTILE);
    const { page, record, close } = await openAdmin({}, { view: "#/images" });
    await page.fill("#search", "hostile/");
    await page.waitForFunction(() => document.querySelector("tbody tr")?.textContent.includes("hostile/"));
    while (await page.isVisible(".more")) {
      const before = await page.locator("tbody tr").count();
      await page.click(".more");
      await page.waitForFunction((rows) => document.querySelectorAll("tbody tr").length > rows || document.querySelector(".more").hidden, before);
    }
    const links = await page.locator("tbody th a").evaluateAll((all) => all.map((link) => link.getAttribute("href")));
    const tagged = links.filter((link) => !link.includes("%40sha256"));
    assert.ok(tagged.length >= HOSTILE, `${tagged.length} images`);
    const known = "script[src], link[rel=stylesheet], link[rel=icon]";
    for (const link of tagged) {
      await page.evaluate((hash) => {
        location.hash = hash;
      }, link);
      const isOpen = (hash) => document.querySelector("main h1")?.textContent === decodeURIComponent(hash.slice("#/image/".length)) && document.querySelector(".facts, #failure");
      await page.waitForFunction(isOpen, link);
      assert.equal(await page.locator("#failure").count(), 0, link);
      const made = await page.evaluate((selector) => [...document.querySelectorAll("script, img, svg[onload], iframe, base, link, style, math, meta[http-equiv]")].filter((one) => !one.matches(selector)).map((one) => one.outerHTML), known);
      assert.deepEqual(made, []);
    }
    for (const hash of ["#/image/%E0%A4%A", `#/image/${encodeURIComponent("<img src=x onerror=window.hit=1>")}`, "#<script>window.hit=1</script>"]) {
      await page.evaluate((text) => {
        location.hash = text;
      }, hash);
      await sleep(200);
    }
    await show(page, "#/");
    assert.equal(await page.evaluate(() => window.hit), undefined);
    assertQuiet(record, cache.adminUrl);
    notes.push(`${tagged.length} hostile images, 0 violations of the policy`);
    await close();
  },
};

let passed = 0;
let failed = 0;
try {
  await cache.prepare();
  await cache.start();
  await seedImages(registry, cache);
  const wanted = process.env.ONLY ? new RegExp(process.env.ONLY) : /./;
  for (const [name, check] of Object.entries(checks).filter(([known]) => wanted.test(known))) {
    const began = Date.now();
    try {
      await check();
      passed += 1;
      console.log(`ok      ${name} (${Date.now() - began} ms)`);
    } catch (error) {
      failed += 1;
      console.log(`FAILED  ${name}\n${error.stack}`);
    }
  }
} finally {
  await browser.close();
  await cache.stop();
  registry.close();
}
console.log(`web page: ${passed} checks passed, ${failed} failed; ${notes.join("; ")}`);
process.exitCode = failed === 0 ? 0 : 1;
