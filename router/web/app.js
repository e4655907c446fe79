// Log-in and the user's desktops.
import { $, Fault, get, language, make, post, say, showFault, t } from "./common.js";

const POLL = 2000;
/** Steps of a node's work, as pages call them. */
const PHASES = {
  "fetching-image": "phase.image",
  "waiting-for-start-slot": "phase.slot",
  "preparing-storage": "phase.storage",
  "preparing-network": "phase.network",
  launching: "phase.launch",
  "waiting-for-agent": "phase.agent",
};
let timer;
let seen = new Map();

function show(section) {
  for (const id of ["login", "desktops"]) $(id).hidden = id !== section;
  $("account").hidden = section !== "desktops";
}

function showLogin(fault) {
  clearTimeout(timer);
  show("login");
  showFault($("login-fault"), fault);
  $("user").focus();
}

/** Straight in, when there is one desktop and one has just logged in. */
async function enter(session, justLoggedIn) {
  show("desktops");
  $("who").textContent = session.user;
  $("who").title = t("hello", session.user);
  $("licences").hidden = !document.body.dataset.viewer;
  const desktops = await refresh();
  if (justLoggedIn && desktops?.length === 1 && !desktops[0].blocked) open(desktops[0]);
  else if (justLoggedIn) $("main").focus({ preventScroll: true });
}

function open(desktop) {
  location.href = `/web/desktop?id=${desktop.id}`;
}

async function refresh() {
  clearTimeout(timer);
  let answer;
  try {
    answer = await get("/web/desktops?poll");
    draw(answer);
  } catch (fault) {
    if (fault.code === "R103") return showLogin(fault);
    notice(fault.code === "R000" ? new Fault({ code: "R000" }) : fault);
  }
  timer = setTimeout(refresh, document.hidden ? POLL * 5 : POLL);
  return answer?.desktops;
}

function notice(fault) {
  const text = fault ? `${fault.message ?? t(fault.code)}|${fault.detail ?? ""}` : "";
  if ($("notice").dataset.text === text) return;
  $("notice").dataset.text = text;
  $("notice").className = fault ? "notice" : "";
  showFault($("notice"), fault && (fault instanceof Fault ? fault : new Fault(fault)));
}

/** Cards that did not change stay as they are, with the focus that may be in them. */
function draw({ desktops, notice: told }) {
  $("loading").hidden = true;
  $("none").hidden = desktops.length > 0;
  notice(told);
  const now = new Map();
  for (const desktop of desktops) {
    const before = seen.get(desktop.id);
    const { since, heldSince, ...rest } = desktop;
    const text = JSON.stringify(rest);
    const element = before?.text === text ? before.element : card(desktop, before?.element);
    now.set(desktop.id, { text, state: desktop.state, element });
    tellSince(element.querySelector(".since"), since);
    tellSince(element.querySelector(".held-since"), heldSince);
    if (before && before.state !== desktop.state) say(`${desktop.name}: ${t(`state.${desktop.state}`)}`);
  }
  for (const [id, { element }] of seen) if (!now.has(id)) element.remove();
  seen = now;
}

/** How long ago something came about, in words; the time itself for those who ask. */
function tellSince(node, seconds) {
  if (!node) return;
  node.hidden = seconds === null || seconds === undefined;
  if (node.hidden) return;
  const [count, unit] = [[seconds, "second", 60], [seconds / 60, "minute", 60], [seconds / 3600, "hour", 48], [seconds / 86400, "day", Infinity]].find(
    ([count, , most]) => count < most,
  );
  const format = new Intl.NumberFormat(language, { style: "unit", unit, unitDisplay: "long" });
  // Seconds by tens: a number that changes at each look is noise.
  node.textContent = t("since", format.format(unit === "second" ? Math.floor(count / 10) * 10 : Math.floor(count)));
  const at = new Date(Date.now() - seconds * 1000);
  node.dateTime = at.toISOString();
  node.title = at.toLocaleString(language);
}

const sinceMark = (name) => make("time", { className: `hint ${name}`, hidden: true });

/** What keeps a desktop from being used, and what went wrong: words first, then what was recorded. */
function remarks({ state, block, failed, away }) {
  const lines = [];
  const why = (text, ...facts) => {
    const small = facts.filter(Boolean).join(" · ");
    lines.push(make("p", { className: "why", textContent: text }, ...(small ? [make("small", { textContent: small })] : [])));
  };
  if (away) why(t("away"));
  if (block) block.code ? why(t("blockedByFailure")) : why(t("blocked"), block.note);
  if (failed && state === "stopped") why(t("failed"), failed.detail, `${t("codeLabel")} ${failed.code}`);
  return lines;
}

/** What a card is made of. Its parts are made once and then told: what is under a finger stays there. */
function bare(name) {
  const button = (verb, primary) => {
    const b = make("button", { type: "button", textContent: t(verb), className: primary ? "primary" : "" });
    b.dataset.verb = verb;
    b.setAttribute("aria-label", `${t(verb)}: ${name}`);
    return b;
  };
  return make(
    "li",
    { className: "card" },
    make("h2", { textContent: name }),
    make("p", {}, make("span", { className: "badge" }), " ", sinceMark("since")),
    make("p", { className: "hint phase" }),
    make("div", { className: "remarks" }),
    make("p", { className: "hint held" }, t("held"), " ", sinceMark("held-since")),
    make("div", { className: "row" }, button("connect", true), button("start"), button("restart"), button("stop")),
  );
}

function card(desktop, old) {
  const element = old ?? $("cards").appendChild(bare(desktop.name));
  const focused = element.contains(document.activeElement) ? document.activeElement : null;
  const part = (selector) => element.querySelector(selector);
  const button = (verb, enabled, action, hidden) =>
    Object.assign(part(`[data-verb=${verb}]`), { disabled: !enabled, onclick: action, hidden: !!hidden });
  const { state, blocked, away, phase, held } = desktop;
  Object.assign(part(".badge"), { className: `badge ${state}`, textContent: t(`state.${state}`) });
  Object.assign(part(".phase"), { textContent: phase in PHASES ? t(PHASES[phase]) : "", hidden: !(phase in PHASES) });
  part(".remarks").replaceChildren(...remarks(desktop));
  part(".held").hidden = !held;
  const stopped = state === "stopped";
  button("connect", !blocked && !away && !["zombie", "debugging"].includes(state), () => open(desktop));
  button("start", !blocked && !away, () => act(desktop, "start"), !stopped);
  button("restart", state === "running" && !blocked, () => sure(desktop, "restart"), stopped);
  button("stop", ["running", "starting"].includes(state), () => sure(desktop, "stop"));
  // One that can be used no more does not keep the focus.
  if (focused?.disabled || focused?.hidden) part("button:not(:disabled):not([hidden])")?.focus();
  return element;
}

async function act(desktop, verb) {
  if (verb === "restart") say(t("stopped", desktop.name));
  try {
    await post(`/web/desktops/${desktop.id}/${verb}`);
    say(t(verb === "stop" ? "stopped" : "started", desktop.name));
  } catch (fault) {
    if (fault.code === "R103") return showLogin(fault);
    notice(fault);
    say(fault.message, 8);
  }
  await refresh();
}

function sure(desktop, verb) {
  $("sure-text").textContent = t(`sure.${verb}`, desktop.name);
  $("sure-yes").textContent = t(`yes.${verb}`);
  const dialog = $("sure");
  dialog.returnValue = "";
  dialog.onclose = () => {
    if (dialog.returnValue) act(desktop, verb);
  };
  dialog.showModal();
}

$("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = $("login-button");
  button.disabled = true;
  button.textContent = t("loggingIn");
  showFault($("login-fault"));
  const [user, password, code] = ["user", "password", "code"].map((id) => $(id).value);
  try {
    const session = await post("/web/login", { user: user.trim(), password, code: code.trim() });
    $("login-form").reset();
    await enter(session, true);
  } catch (fault) {
    showFault($("login-fault"), fault);
    // The password was right: only the code is asked for.
    const code = ["R107", "R108"].includes(fault.code);
    if (code) $("code-part").open = true;
    const field = $(code ? "code" : "password");
    field.select();
    field.focus();
  }
  button.disabled = false;
  button.textContent = t("login");
});

async function logout(everywhere) {
  $("account").open = false;
  let done = {};
  try {
    done = await post("/web/logout", { everywhere });
  } catch (fault) {
    if (fault.code !== "R103") return notice(fault);
  }
  seen = new Map();
  $("cards").replaceChildren();
  showLogin();
  if (done.onlyHere) say(t("loggedOutHere"), 12);
  else say(t("loggedOut"));
}

$("logout").onclick = () => logout(false);
$("logout-all").onclick = () => logout(true);
document.addEventListener("visibilitychange", () => !document.hidden && !$("desktops").hidden && refresh());
document.addEventListener("click", (event) => $("account").contains(event.target) || ($("account").open = false));

try {
  await enter(await get("/web/session"), false);
} catch (fault) {
  showLogin(fault.code === "R103" ? null : fault);
}
