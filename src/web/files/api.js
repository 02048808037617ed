// Requests to the admin API. The token stays in the memory of this page.

const TIMEOUT_MS = 15000;
let token = "";
const listeners = new Set();

/** An answer of the API other than success. Status 0 means no answer. */
export class ApiError extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
  get needsToken() {
    return this.status === 401;
  }
}

export const hasToken = () => token !== "";
export function setToken(text) {
  token = text.trim();
}

/** Calls `listener` with true after an answer, and with false after a failure of the connection. */
export function onReachable(listener) {
  listeners.add(listener);
}

async function request(method, path) {
  const headers = { Accept: "application/json" };
  if (token) headers.Authorization = `Bearer ${token}`;
  let response;
  try {
    response = await fetch(path, { method, headers, cache: "no-store", credentials: "omit", signal: AbortSignal.timeout(TIMEOUT_MS) });
  } catch {
    for (const listener of listeners) listener(false);
    throw new ApiError(0, "The cache does not answer.");
  }
  for (const listener of listeners) listener(true);
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    throw new ApiError(response.status, String(problem.detail ?? `Status ${response.status}`));
  }
  return response;
}

export const get = async (path) => (await request("GET", path)).json();
export const text = async (path) => (await request("GET", path)).text();
export const send = async (method, path) => (await request(method, path)).json();

/** Returns the result of `promise`, or null if the client lacks the permission or the cache lacks the part. */
export async function permitted(promise) {
  try {
    return await promise;
  } catch (error) {
    if (error instanceof ApiError && [401, 403, 404, 409, 503].includes(error.status)) return null;
    throw error;
  }
}

/** Returns the path of an image. */
export const imagePath = (reference) => `/api/v1/images/${encodeURIComponent(reference)}`;
