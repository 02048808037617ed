// Screenshots of both pages. Usage: node screenshots.mjs BINARY DIRECTORY OUTPUT
import path from "node:path";
import { openBrowser, openPage, signIn, SIZES } from "./browser.mjs";
import { Cache, TOKENS } from "./cache.mjs";
import { Registry } from "./registry.mjs";
import { seedImages } from "./seed.mjs";

const [binary, directory, output] = process.argv.slice(2);
const IMAGE_VIEW = `#/image/${encodeURIComponent("docker.io/library/nginx:1.27")}`;
const VIEWS = { overview: "#/", images: "#/images", image: IMAGE_VIEW, jobs: "#/jobs" };

const registry = new Registry();
const browser = await openBrowser();
const cache = new Cache({ binary, directory, registryPort: await registry.listen(), settings: { BASE_URL: "http://cache.lan:8080" } });
try {
  await cache.prepare();
  await cache.start();
  await seedImages(registry, cache);
  const slow = [["docker.io", "library/golang", "1.25", 11000000, 0.63], ["ghcr.io", "open-webui/open-webui", "main", 9000000, 0.28]];
  const running = slow.map(([host, repository, tag, size, part]) => {
    const image = registry.addImage({ repository, tag, sizes: [size], seed: repository });
    const goOn = registry.stopAfter(image.manifests[0].blobs[1], part);
    return { goOn, pulled: Promise.all([cache.pull(host, image), cache.pull(host, image)]) };
  });
  await fetch(`${cache.adminUrl}/api/v1/pins/${encodeURIComponent("docker.io/library/alpine:3.20")}`, { method: "PUT", headers: { Authorization: `Bearer ${TOKENS.operate}` } });
  await cache.until("/api/v1/fills", ({ fills }) => fills.length === slow.length && fills.every((fill) => fill.bytes > 0));
  for (const [name, size] of Object.entries(SIZES)) {
    for (const scheme of ["light", "dark"]) {
      const file = (view) => path.join(output, `${view}-${name}-${scheme}.png`);
      const pull = await openPage(browser, { size, scheme });
      await pull.page.goto(`${cache.url}/?image=nginx:1.27`, { waitUntil: "networkidle" });
      await pull.page.screenshot({ path: file("pull"), fullPage: name !== "wide" });
      await pull.close();
      const admin = await openPage(browser, { size, scheme });
      await admin.page.goto(`${cache.adminUrl}/`);
      await admin.page.click("#access");
      await admin.page.screenshot({ path: file("signin") });
      await signIn(admin.page, TOKENS.operate);
      for (const [view, hash] of Object.entries(VIEWS)) {
        await admin.page.evaluate((text) => {
          location.hash = text;
        }, hash);
        await admin.page.waitForTimeout(1800);
        await admin.page.screenshot({ path: file(view), fullPage: name !== "wide" });
      }
      await admin.page.evaluate((text) => {
        location.hash = text;
      }, IMAGE_VIEW);
      await admin.page.waitForSelector("#remove");
      await admin.page.click("#remove");
      await admin.page.waitForSelector("dialog[open]");
      await admin.page.screenshot({ path: file("plan") });
      await admin.close();
    }
  }
  for (const { goOn, pulled } of running) {
    goOn();
    await pulled;
  }
} finally {
  await browser.close();
  await cache.stop();
  registry.close();
}
