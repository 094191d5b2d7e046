// Calls the official Node SDK as it is told; see client.py, which does the same.
// Arguments: the folder of the SDK, the base URL and the API key.
import fs from "node:fs";
import path from "node:path";
import readline from "node:readline";
import { pathToFileURL } from "node:url";

const [folder, baseURL, apiKey] = process.argv.slice(2);
const sdk = path.join(folder, "node_modules", "openai");
const { OpenAI } = await import(pathToFileURL(path.join(sdk, "index.mjs")));

const given = (value) => {
  if (Array.isArray(value)) return value.map(given);
  if (value === null || typeof value !== "object") return value;
  if (Object.keys(value).join() === "file") return fs.createReadStream(value.file);
  return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, given(part)]));
};

const camel = (name) => name.replace(/_([a-z])/g, (_, letter) => letter.toUpperCase());

const shown = async (result, order) => {
  if (typeof result?.iterPages === "function") {
    const items = [];
    for await (const item of result) items.push(item);
    return items;
  }
  if (order.save) {
    fs.writeFileSync(order.save, Buffer.from(await result.arrayBuffer()));
    return { content_type: result.headers.get("content-type") };
  }
  return result;
};

const obey = async (order) => {
  const { max_retries: maxRetries, api_key } = order.client ?? {};
  let found = new OpenAI({ baseURL, apiKey: api_key ?? apiKey, ...(maxRetries === undefined ? {} : { maxRetries }) });
  const names = order.call.split(".").map(camel);
  const method = names.pop();
  for (const name of names) found = found[name];
  // what Python's SDK takes as extra_body or extra_query is a part of the first argument here, and headers are the last argument's
  const { extra_body, extra_query, extra_headers, ...params } = given(order.params ?? {});
  const body = { ...params, ...extra_body, ...extra_query };
  const last = extra_headers ? [{ headers: extra_headers }] : [];
  const parts = Object.keys(body).length ? [body] : [];
  return shown(await found[method](...(order.ids ?? []), ...parts, ...last), order);
};

const unwrap = async (order) => {
  const { payload, headers, secret } = order.params;
  return new OpenAI({ baseURL, apiKey }).webhooks.unwrap(payload, headers, secret);
};

const say = (reply) => process.stdout.write(JSON.stringify(reply) + "\n");
say({ answer: JSON.parse(fs.readFileSync(path.join(sdk, "package.json"))).version });
for await (const line of readline.createInterface({ input: process.stdin })) {
  const order = JSON.parse(line);
  try {
    say({ answer: await (order.call === "webhooks.unwrap" ? unwrap(order) : obey(order)) });
  } catch (error) {
    const { status, code, param, type, message } = error;
    say({ error: { class: error.constructor.name, status, code, param, type, message } });
  }
}
