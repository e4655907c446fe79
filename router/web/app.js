// Log-in and the user's desktops.
import { $, Fault, get, language, make, post, say, showFault, t } from "./common.js";

const POLL = 2000;
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
    const text = JSON.stringify(desktop);
    const since = before && before.state === desktop.state ? before.since : before ? Date.now() : null;
    const element = before?.text === text ? before.element : card(desktop, before?.element);
    now.set(desktop.id, { text, state: desktop.state, since, element });
    tellSince(element, since);
    if (before && before.state !== desktop.state) say(`${desktop.name}: ${t(`state.${desktop.state}`)}`);
  }
  for (const [id, { element }] of seen) if (!now.has(id)) element.remove();
  seen = now;
}

function tellSince(element, since) {
  const node = element.querySelector(".since");
  node.hidden = !since;
  if (!since) return;
  const minutes = Math.floor((Date.now() - since) / 60000);
  const format = new Intl.RelativeTimeFormat(language, { numeric: "auto" });
  node.textContent = minutes < 60 ? format.format(-minutes, "minute") : format.format(-Math.floor(minutes / 60), "hour");
}

function card(desktop, old) {
  const element = old ?? $("cards").appendChild(make("li", { className: "card" }));
  const focused = element.contains(document.activeElement) ? document.activeElement.dataset.verb : null;
  const button = (verb, enabled, action, primary) => {
    const b = make("button", { type: "button", textContent: t(verb), disabled: !enabled, onclick: action });
    if (primary) b.className = "primary";
    b.dataset.verb = verb;
    b.setAttribute("aria-label", `${t(verb)}: ${desktop.name}`);
    return b;
  };
  const { state, blocked } = desktop;
  const badge = make("span", { className: `badge ${state}`, textContent: t(`state.${state}`) });
  const lines = [make("h2", { textContent: desktop.name })];
  lines.push(make("p", {}, badge, " ", make("span", { className: "hint since", hidden: true })));
  if (blocked) lines.push(make("p", { className: "why", textContent: t("blocked") }));
  if (desktop.held) lines.push(make("p", { className: "hint", textContent: t("held") }));
  const usable = !blocked && !["zombie", "debugging"].includes(state);
  lines.push(
    make(
      "div",
      { className: "row" },
      button("connect", usable, () => open(desktop), true),
      state === "stopped"
        ? button("start", !blocked, () => act(desktop, "start"))
        : button("restart", state === "running" && !blocked, () => sure(desktop, "restart")),
      button("stop", ["running", "starting"].includes(state), () => sure(desktop, "stop")),
    ),
  );
  element.replaceChildren(...lines);
  if (focused) element.querySelector(`[data-verb=${focused}]:not(:disabled), .primary`)?.focus();
  return element;
}

async function act(desktop, verb) {
  try {
    await post(`/web/desktops/${desktop.id}/${verb}`);
    say(t(verb === "start" ? "started" : "stopped", desktop.name));
  } catch (fault) {
    if (fault.code === "R103") return showLogin(fault);
    notice(fault);
    say(fault.message, 8);
  }
  await refresh();
}

async function restart(desktop) {
  await act(desktop, "stop");
  const until = Date.now() + 300_000;
  while (Date.now() < until) {
    await new Promise((done) => setTimeout(done, POLL));
    if (seen.get(desktop.id)?.state === "stopped") return act(desktop, "start");
  }
}

function sure(desktop, verb) {
  $("sure-text").textContent = t(`sure.${verb}`, desktop.name);
  $("sure-yes").textContent = t(`yes.${verb}`);
  const dialog = $("sure");
  dialog.returnValue = "";
  dialog.onclose = () => {
    if (dialog.returnValue) verb === "stop" ? act(desktop, "stop") : restart(desktop);
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
    $("password").select();
    $("password").focus();
  }
  button.disabled = false;
  button.textContent = t("login");
});

async function logout(everywhere) {
  $("account").open = false;
  try {
    await post("/web/logout", { everywhere });
  } catch (fault) {
    if (fault.code !== "R103") return notice(fault);
  }
  seen = new Map();
  $("cards").replaceChildren();
  showLogin();
  say(t("loggedOut"));
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
