// One desktop, full window.
import { Channel } from "./channel.js";
import { $, Fault, clock, get, language, make, post, say, t } from "./common.js";
import { Files } from "./files.js";

const id = Number(new URLSearchParams(location.search).get("id"));
const viewer = document.body.dataset.viewer;
const QUALITY = { auto: [6, 2], sharp: [9, 1], light: [2, 7] };
/** Seconds before each try to reach the node again; the last one repeats. */
const PAUSES = [0, 1, 2, 4, 8, 15];

/** How often a desktop that ends before it has shown anything is opened again by itself. */
const BLANK_TRIES = 5;

let RFB, viewerLog, rfb, channel, began, tries = 0, retry, closing = false, session, drawn = false, clipboardText = "";

const settings = {
  get: (name, otherwise) => localStorage.getItem(`roost.${name}`) ?? otherwise,
  set: (name, value) => localStorage.setItem(`roost.${name}`, value),
};

function guessLayout() {
  const [word, region] = navigator.language.toLowerCase().split("-");
  const known = { es: region && region !== "es" ? "latam" : "es", pt: region === "br" ? "br" : "pt", de: "de", fr: "fr", it: "it" };
  return word === "en" && region === "gb" ? "gb" : known[word] ?? "us";
}

// --- the cover: progress, and every end --------------------------------------------------------

function cover({ title, text, code, go, steps }) {
  $("cover").hidden = false;
  $("bar").hidden = true;
  $("banner").hidden = true;
  $("cover-title").textContent = title;
  $("cover-text").textContent = text ?? "";
  $("cover-text").hidden = !text;
  $("cover-code").textContent = code ?? "";
  $("cover-code").hidden = !code;
  $("cover-go").hidden = !go;
  $("cover-go").textContent = go ?? "";
  if (!steps) $("steps").replaceChildren();
  if (go) $("cover-go").focus();
  else $("cover-title").focus();
}

function step(name) {
  const text = t(`step.${name}`);
  const last = $("steps").lastElementChild;
  if (last?.textContent !== text) $("steps").append(make("li", { textContent: text }));
}

function failed(fault) {
  began = undefined;
  if (fault.code === "R103") return (location.href = "/");
  const code = `${t("codeLabel")} ${fault.code}`;
  cover({ title: t(fault.code), text: fault.detail, code, go: t("again") });
}

// --- connecting ------------------------------------------------------------------------------

async function connect() {
  clearTimeout(retry);
  closing = false;
  const again = began !== undefined;
  if (!again) cover({ title: t("opening"), steps: true });
  try {
    if (!viewer) return cover({ title: t("noViewer"), text: t("noViewerHint") });
    files.limit = (await get("/web/session")).uploadMax;
    RFB ??= (await import(`${viewer}/core/rfb.js`)).default;
    viewerLog ??= await import(`${viewer}/core/util/logging.js`);
    const { ticket } = await post(`/web/desktops/${id}/ticket`, again && session ? { after: session } : {});
    dial(ticket);
  } catch (fault) {
    if (fault.code === "R000" && again) return lost();
    if (fault.code === "R211") return takenOver();
    failed(fault instanceof Fault ? fault : new Fault({ code: "R305", detail: String(fault) }));
  }
}

function dial(ticket) {
  const ratio = window.devicePixelRatio || 1;
  const query = new URLSearchParams({
    ticket,
    w: Math.round(innerWidth * (ratio > 1 && ratio <= 2 && innerWidth < 1000 ? ratio : 1)),
    h: Math.round(innerHeight * (ratio > 1 && ratio <= 2 && innerWidth < 1000 ? ratio : 1)),
    layout: settings.get("layout", guessLayout()),
  });
  channel = new Channel(`wss://${location.host}/web/socket?${query}`, told, ended);
}

function told(word) {
  if (word.step) step(word.step);
  if (word.open) {
    session = word.session;
    opened(word.resumed);
  }
}

function opened(resumed) {
  step("connecting");
  $("screen").replaceChildren();
  viewerLog.initLogging("warn");
  const mine = new RFB($("screen"), channel, { shared: true });
  rfb = mine;
  rfb.addEventListener("disconnect", () => rfb === mine && (rfb = undefined));
  rfb.background = "#1d252c";
  rfb.focusOnClick = true;
  applySettings();
  rfb.addEventListener("connect", () => shown(resumed));
  rfb.addEventListener("clipboard", (event) => fromDesktop(event.detail.text));
  rfb.addEventListener("desktopname", (event) => (document.title = `${event.detail.name} · ${t("product")}`));
  rfb.addEventListener("securityfailure", (event) => {
    failed(new Fault({ code: "R209", detail: event.detail.reason }));
  });
}

/** Whether there is anything to be seen: more colours than a desktop has that nothing has drawn, looked at from afar. */
function hasPicture() {
  const canvas = $("screen").querySelector("canvas:not(.still)");
  if (!canvas?.width) return false;
  const small = make("canvas", { width: 64, height: 36 }).getContext("2d");
  small.imageSmoothingEnabled = false;
  small.drawImage(canvas, 0, 0, 64, 36);
  return new Set(new Uint32Array(small.getImageData(0, 0, 64, 36).data.buffer)).size > 3;
}

function look() {
  if (drawn || !rfb || !(drawn = hasPicture())) return;
  tries = 0;
}

function shown(resumed) {
  drawn = false;
  began ??= Date.now();
  $("cover").hidden = true;
  $("banner").hidden = true;
  $("bar").hidden = false;
  $("steps").replaceChildren();
  rfb.focus();
  if (resumed) say(t("resumed"));
  document.body.dataset.open = "1";
}

function ended(code, fault) {
  const hadPicture = hasPicture();
  delete document.body.dataset.open;
  // A picture may still be decoded; that the rest of its data comes to nobody is no error.
  viewerLog.initLogging("none");
  if (closing) return;
  if (code === 4003) return (location.href = "/");
  if (code === 4001) return takenOver();
  if (fault) {
    began = undefined;
    return failed(new Fault(fault));
  }
  // The session ended before it came to anything: most likely the next one does.
  if (code === 1000 && !drawn && !hadPicture && tries < BLANK_TRIES) return lost();
  if (code === 1000) {
    began = undefined;
    return cover({ title: t("ended"), go: t("again") });
  }
  if (began === undefined && tries > 3) return failed(new Fault({ code: "R000" }));
  lost();
}

function takenOver() {
  began = undefined;
  cover({ title: t("takenOver"), text: t("takenOverHint"), code: `${t("codeLabel")} R211`, go: t("takeBack") });
}

/** The last picture stays, under a banner, while the node is sought again. */
function lost() {
  const canvas = $("screen").querySelector("canvas:not(.still)");
  if (canvas?.width) {
    const still = make("canvas", { className: "still", width: canvas.width, height: canvas.height });
    still.getContext("2d").drawImage(canvas, 0, 0);
    $("screen").querySelector(".still")?.remove();
    $("screen").prepend(still);
  }
  const pause = PAUSES[Math.min(tries++, PAUSES.length - 1)];
  const at = Date.now() + pause * 1000;
  $("banner").hidden = began === undefined;
  clearTimeout(retry);
  const tick = () => {
    const left = Math.ceil((at - Date.now()) / 1000);
    $("banner-text").textContent = left > 0 ? t("lostIn", left) : t("lost");
    if (left > 0) retry = setTimeout(tick, 500);
    else connect();
  };
  tick();
}

function leave() {
  closing = true;
  began = undefined;
  if (rfb) rfb.disconnect();
  else channel?.close();
  $("screen").replaceChildren();
  if (document.fullscreenElement) document.exitFullscreen();
  cover({ title: t("left"), text: t("leftHint"), go: t("connect") });
}

// --- tools -------------------------------------------------------------------------------------

function applySettings() {
  const [quality, compression] = QUALITY[settings.get("quality", "auto")] ?? QUALITY.auto;
  const scale = settings.get("fit", "resize") === "scale";
  if (!rfb) return;
  rfb.qualityLevel = quality;
  rfb.compressionLevel = compression;
  rfb.scaleViewport = true;
  rfb.resizeSession = !scale;
}

for (const name of ["quality", "fit", "layout"]) {
  $(name).value = settings.get(name, { quality: "auto", fit: "resize", layout: guessLayout() }[name]);
  $(name).onchange = () => {
    settings.set(name, $(name).value);
    applySettings();
  };
}

function tools(open) {
  $("tools").hidden = !open;
  $("handle").setAttribute("aria-expanded", String(open));
  if (open) $("tools").querySelector("button").focus();
  else rfb?.focus();
}

$("handle").onclick = () => tools($("tools").hidden);
$("cover-go").onclick = () => connect();
$("banner-now").onclick = () => connect();
$("b-leave").onclick = leave;
$("b-cad").onclick = () => (rfb?.sendCtrlAltDel(), tools(false));
$("b-clipboard").onclick = () => dialog("d-clipboard");
$("b-settings").onclick = () => dialog("d-settings");
$("b-files").onclick = () => (dialog("d-files"), files.open());
$("files-close").onclick = () => $("d-files").close();

function dialog(name) {
  tools(false);
  rfb?.blur();
  $(name).showModal();
  $(name).onclose = () => rfb?.focus();
}

$("b-full").onclick = async () => {
  if (document.fullscreenElement) return document.exitFullscreen();
  try {
    await document.documentElement.requestFullscreen({ navigationUI: "hide" });
    // Chromium only: Alt-Tab and the like go to the desktop too.
    await navigator.keyboard?.lock?.();
  } catch (error) {
    say(String(error.message));
  }
  tools(false);
};
document.addEventListener("fullscreenchange", () => {
  $("b-full").setAttribute("aria-pressed", String(!!document.fullscreenElement));
});

// The way out of the screen for those who have only a keyboard.
addEventListener(
  "keydown",
  (event) => {
    if (event.ctrlKey && event.altKey && event.shiftKey && ["Control", "Alt", "Shift", "Meta"].includes(event.key) && !$("bar").hidden) {
      event.preventDefault();
      event.stopPropagation();
      tools(true);
    }
    if (event.key === "Escape" && !$("tools").hidden && $("bar").contains(document.activeElement)) tools(false);
  },
  true,
);

setInterval(look, 500);
setInterval(() => {
  if (began !== undefined) $("clock").textContent = clock((Date.now() - began) / 1000);
}, 1000);

addEventListener("offline", () => channel?.lost());
addEventListener("online", () => began !== undefined && !$("banner").hidden && connect());
addEventListener("pagehide", () => channel?.close());

// --- clipboard ---------------------------------------------------------------------------------

function fromDesktop(text) {
  clipboardText = text;
  $("clip").value = text;
  // Works where the browser allows it; else the text waits in the clipboard's window.
  navigator.clipboard?.writeText(text).catch(() => {});
}

function toDesktop(text) {
  if (!text || text === clipboardText) return;
  clipboardText = text;
  $("clip").value = text;
  rfb?.clipboardPasteFrom(text);
}

async function offerClipboard() {
  if (!rfb || !navigator.clipboard?.readText || !document.hasFocus()) return;
  try {
    toDesktop(await navigator.clipboard.readText());
  } catch {
    // Not allowed, or Firefox, which asks each time: the clipboard's window remains.
  }
}

addEventListener("focus", () => navigator.permissions?.query({ name: "clipboard-read" }).then((p) => p.state === "granted" && offerClipboard(), () => {}));
addEventListener("paste", (event) => {
  if ($("d-clipboard").open || $("d-files").open) return;
  toDesktop(event.clipboardData?.getData("text/plain"));
});
$("clip").oninput = () => toDesktop($("clip").value);
$("clip-copy").onclick = async () => {
  $("clip").select();
  await navigator.clipboard?.writeText($("clip").value).catch(() => document.execCommand("copy"));
  say(t("copied"));
};

// --- on-screen keyboard ------------------------------------------------------------------------

const typing = $("typing");
const KEYS = { Backspace: 0xff08, Enter: 0xff0d, Tab: 0xff09, Escape: 0xff1b };
$("b-keyboard").onclick = () => {
  tools(false);
  typing.value = "_";
  typing.focus();
};
typing.addEventListener("beforeinput", (event) => {
  event.preventDefault();
  const special = { deleteContentBackward: "Backspace", insertLineBreak: "Enter", insertParagraph: "Enter" }[event.inputType];
  if (special) return rfb?.sendKey(KEYS[special], special);
  for (const letter of event.data ?? "") {
    const point = letter.codePointAt(0);
    rfb?.sendKey(point < 0x100 ? point : 0x01000000 | point, null);
  }
});

// --- files ---------------------------------------------------------------------------------------

const files = new Files(id);
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  if (!event.dataTransfer?.files.length || !document.body.dataset.open) return;
  if (!$("d-files").open) dialog("d-files");
  files.open().then(() => files.bring(event.dataTransfer.files));
});

globalThis.roost = { get rfb() { return rfb; }, get channel() { return channel; } };
document.documentElement.lang = language;
if (Number.isInteger(id) && id > 0) connect();
else failed(new Fault({ code: "R201" }));
