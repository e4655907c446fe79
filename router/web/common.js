// What both pages share: texts, requests, faults.
const language = document.documentElement.lang;
const strings = (await import(`./strings.${language}.js`)).default;

/** A text in the page's language; {0}, {1} are replaced. */
export function t(key, ...values) {
  return (strings[key] ?? key).replace(/\{(\d)\}/g, (_, n) => values[n] ?? "");
}

export const $ = (id) => document.getElementById(id);

/** An element with properties and children. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** A failure that the node told of, or that it cannot be reached. */
export class Fault extends Error {
  constructor(fault) {
    super(t(fault.code));
    this.code = fault.code;
    this.detail = fault.detail;
    this.wait = fault.wait;
  }
}

export const unreachable = () => new Fault({ code: "R000" });

let token = "";

async function send(path, options) {
  let response;
  try {
    response = await fetch(path, { credentials: "same-origin", cache: "no-store", ...options });
  } catch {
    throw unreachable();
  }
  const body = response.headers.get("content-type")?.startsWith("application/json") ? await response.json() : {};
  if (!response.ok) throw new Fault(body.code ? body : { code: "R305", detail: String(response.status) });
  if (body.token) token = body.token;
  return body;
}

export const get = (path) => send(path, {});

export function post(path, value = {}) {
  const headers = { "Content-Type": "application/json", "X-Roost-Token": token };
  return send(path, { method: "POST", headers, body: JSON.stringify(value) });
}

/** For requests that are not made with fetch. */
export const currentToken = () => token;

/** Shows a fault in an element: words, what was recorded, the code for the administrator. */
export function showFault(element, fault) {
  element.replaceChildren();
  if (!fault) return;
  const facts = [fault.wait ? `${fault.wait} s` : fault.detail, `${t("codeLabel")} ${fault.code ?? "?"}`];
  element.append(fault.message, make("small", { textContent: facts.filter(Boolean).join(" · ") }));
}

let sayTimer;

/** A short word to everybody, also to screen readers. */
export function say(text, seconds = 4) {
  $("say").textContent = text;
  clearTimeout(sayTimer);
  sayTimer = setTimeout(() => ($("say").textContent = ""), seconds * 1000);
}

/** 75 is "1:15"; 4000 is "1:06:40". */
export function clock(seconds) {
  const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, Math.floor(seconds) % 60];
  if (!parts[0]) parts.shift();
  return parts.map((p, i) => (i ? String(p).padStart(2, "0") : p)).join(":");
}

export function bytes(n) {
  const units = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte"];
  const step = n < 1 ? 0 : Math.min(4, Math.floor(Math.log(n) / Math.log(1000)));
  const format = { style: "unit", unit: units[step], maximumFractionDigits: step ? 1 : 0 };
  return new Intl.NumberFormat(language, format).format(n / 1000 ** step);
}

export { language };
