// The console's behaviour. The token lives in the text area alone; every answer comes from the gateway itself.
"use strict";

const $ = (id) => document.getElementById(id);
const token = () => $("token").value.trim();
let entries = [], cursor = null, times = null, turn = 0, ahead = 0;

// The gateway's time in seconds: this machine's clock may be wrong, and a cut-off is as right as its clock.
const now = () => Math.floor((Date.now() - ahead) / 1000);

// What a person types: there `1e3` may be a number, too.
const form = (members) => new URLSearchParams(members);

// Send a request as the token's holder; return its members and whether it went well, never throw.
async function ask(method, path, body) {
  try {
    const type = typeof body === "string" ? { "Content-Type": "application/json" } : {};
    const answer = await fetch(path, {
      method, cache: "no-store", credentials: "omit", redirect: "error",
      headers: { Authorization: `Bearer ${token()}`, ...type },
      body,
    });
    ahead = Date.now() - Date.parse(answer.headers.get("Date")) || 0;
    const text = await answer.text();
    return { ...(text && exact(text)), ok: answer.ok };
  } catch {
    return { ok: false, detail: "The gateway cannot be reached." };
  }
}

// Read JSON, with numbers that JavaScript would round left as text.
function exact(text) {
  return JSON.parse(text.replace(/"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*/g, (found) =>
    found.startsWith('"') || String(Number(found)) === found ? found : JSON.stringify(found)));
}

// The token: what it says, and what the gateway says of it.

async function show(pressed = false) {
  const mine = ++turn, pasted = token();
  const [header, claims] = pasted.split(".").map(decode);
  times = claims && { from: seconds(claims.iat ?? claims.nbf), to: seconds(claims.exp) };
  $("hint").hidden = pasted;
  $("contents").hidden = !header && !claims;
  $("claims").replaceChildren(...rows("Claims", claims), ...rows("Header", header));
  tick();
  const decision = await decide(pasted);
  if (mine !== turn) return;
  const blacklisted = ["token-blacklisted", "sign-in-required"].some((code) => decision.type === `urn:jwt-gateway:${code}`);
  say("verdict", decision.ok, decision.ok ? "The gateway lets this token through." : decision.detail);
  $("help").hidden = !decision.help;
  $("help").lastChild.textContent = decision.help;
  $("actions").hidden = !decision.ok && !blacklisted;
  $("blacklist").disabled = blacklisted;
  $("restore").disabled = !blacklisted;
  if (pressed) $(blacklisted ? "restore" : "blacklist").focus(); // the button that was pressed is disabled
  await explain(mine, blacklisted);
  const scoped = $("admin").dataset.scopesIn.split(" ").some((name) => claims && (name in claims || name.split(".")[0] in claims));
  await showAdmin(mine, Boolean(decision.ok && scoped));
}

// Say which entries blacklist the token: what kind they are, and more where the gateway tells.
async function explain(mine, blacklisted) {
  const state = blacklisted ? await ask("GET", "/blacklist") : { ok: false };
  if (mine !== turn) return;
  $("against").hidden = !state.ok;
  $("against").replaceChildren(...(state.entries || []).map((entry) => make("li", entry.kind
    ? (entry.kind === "token" ? "It was blacklisted itself." : "All tokens with one of its claims were blacklisted.")
    : `${nameOf(entry)}: by ${entry.by}, ${moment(entry.created_at)}${entry.reason && `, ${entry.reason}`}`)));
}

async function decide(pasted) {
  if (!pasted) return { detail: "" };
  return /[^!-~]/.test(pasted) ? { detail: "This is not a token: it has characters that none can have." } : ask("GET", "/-/auth");
}

// Decode one part of the token for showing; the gateway alone says whether it is genuine.
function decode(part) {
  try {
    const bytes = Uint8Array.from(atob(part.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
    const members = exact(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
    return typeof members === "object" ? members : null;
  } catch {
    return null;
  }
}

function rows(title, members) {
  if (!members) return [];
  const heading = make("th", title);
  heading.colSpan = 2;
  return [make("tr", "", heading), ...Object.entries(members).map(([name, value]) => {
    const row = make("tr", "", make("th", name), cell(name, typeof value === "string" ? value : JSON.stringify(value)));
    if (["iat", "nbf", "exp", "auth_time"].includes(name) && seconds(value)) row.lastChild.append(make("small", moment(value * 1000)));
    return row;
  })];
}

// A cell of a table; what is long can be scrolled, by the keyboard as well.
function cell(name, text) {
  if (text.length <= 300) return make("td", text);
  return make("td", "", Object.assign(make("div", text), { className: "long", tabIndex: 0, role: "group", ariaLabel: name }));
}

function seconds(value) {
  return value !== "" && isFinite(value) ? Number(value) : undefined;
}

// Draw the time left: all of it when the token is fresh, none when it has expired.
function tick() {
  $("lifetime").hidden = typeof times?.to !== "number";
  if ($("lifetime").hidden) return;
  const now = Date.now() / 1000, left = times.to - now;
  const from = typeof times.from === "number" ? Math.min(times.from, now) : now;
  const share = Math.max(0, Math.min(1, left / Math.max(1, times.to - from)));
  $("bar").classList.toggle("over", left <= 0);
  $("bar").firstElementChild.style.width = `${share * 100}%`;
  $("bar").setAttribute("aria-valuenow", Math.round(share * 100));
  $("left").textContent = left > 0 ? `expires in ${span(left)}` : `expired ${span(-left)} ago`;
}

// The two largest units of a time, such as "2 hours 5 minutes".
function span(seconds) {
  const units = [["year", 31557600], ["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
  const first = units.findIndex(([, size]) => seconds >= size);
  const words = units.slice(first).slice(0, 2).map(([name, size]) => {
    const count = Math.floor(seconds / size);
    seconds -= count * size;
    return count && `${count} ${name}${count === 1 ? "" : "s"}`;
  });
  return first < 0 ? "a moment" : words.filter(Boolean).join(" ");
}

async function change(method) {
  const answer = await ask(method, "/blacklist");
  await show(true);
  if (!answer.ok) say("verdict", false, answer.detail);
  else if (method === "DELETE" && answer.blacklisted)
    say("verdict", false, "Its own entry is lifted, but one for its claims still blacklists it. An admin can lift that.");
}

// For admins: entries, logging out everywhere, decisions.

async function showAdmin(mine, scoped = true) {
  const page = scoped ? await ask("GET", "/blacklist/entries") : { ok: false };
  if (mine !== turn) return;
  $("admin").hidden = !page.ok;
  if (!page.ok) return;
  [entries, cursor] = [page.entries, page.next_cursor];
  $("issuers").replaceChildren(...[...new Set(entries.map((entry) => entry.issuer))].map((issuer) => {
    const option = make("option", "");
    option.value = issuer;
    return option;
  }));
  list();
  await chart();
}

async function more() {
  const page = await ask("GET", `/blacklist/entries?cursor=${encodeURIComponent(cursor)}`);
  if (page.ok) [entries, cursor] = [entries.concat(page.entries), page.next_cursor];
  list();
  if (!page.ok) $("entries-note").textContent = page.detail;
}

function list() {
  const wanted = $("search").value.toLowerCase();
  const found = entries.filter((entry) => JSON.stringify(entry).toLowerCase().includes(wanted));
  $("entries").replaceChildren(...found.map(entryRow));
  $("more").hidden = !cursor;
  $("entries-note").textContent = `${found.length} of ${entries.length}${cursor ? " loaded" : ""} entries`;
}

function entryRow(entry) {
  const what = nameOf(entry), until = entry.expires_at ? moment(entry.expires_at) : "it is lifted";
  const before = entry.issued_before === null ? (entry.claim ? "any time" : "") : moment(entry.issued_before * 1000);
  const cells = {
    what, of: entry.issuer, "issued before": before, since: moment(entry.created_at), until, by: entry.by, for: entry.reason,
  };
  const row = make("tr", "", ...Object.entries(cells).map(([name, text]) => cell(name, text)), make("td", ""));
  Object.keys(cells).forEach((name, place) => (row.cells[place].dataset.name = name));
  const lift = make("button", "Lift");
  lift.setAttribute("aria-label", `Lift ${what.slice(0, 200)}`);
  lift.onclick = async () => {
    const place = row.sectionRowIndex;
    // As JSON: a text stands for itself there, and no other entry is lifted.
    const named = { ...(entry.claim || { fingerprint: entry.fingerprint }), issuer: entry.issuer };
    const answer = await ask("DELETE", "/blacklist", JSON.stringify(named));
    await showAdmin(turn);
    if (!answer.ok) $("entries-note").textContent = answer.detail;
    const left = $("entries").rows;
    (left[Math.min(place, left.length - 1)]?.querySelector("button") || $("search")).focus();
  };
  row.lastChild.append(lift);
  return row;
}

function nameOf(entry) {
  const [[name, value]] = Object.entries(entry.claim || { "": "" });
  return entry.claim ? `${name} ${JSON.stringify(value)}` : `token ${entry.fingerprint.slice(0, 12)}…`;
}

async function logOut(event) {
  event.preventDefault();
  const [name, value, which] = [$("claim").value, $("value").value, $("which").value];
  const epoch = (id) => Math.ceil(new Date($(id).value).getTime() / 1000);
  // What "now" is, the gateway knows best; where it would take all, its clock and its LEEWAY are read from it.
  const until = () => (usual() === "now" ? "" : now() + 2 + Number($("admin").dataset.leeway));
  const before = { all: () => "null", now: until, moment: () => epoch("before") }[which];
  const members = {
    [name]: value, issued_before: before?.(), until: $("until").value && epoch("until"),
    issuer: $("issuer").value, reason: $("reason").value,
  };
  const answer = await ask("POST", "/blacklist", form(Object.entries(members).filter(([, text]) => text)));
  const isNow = Math.abs(answer.issued_before - now()) < 400;
  const cutOff = answer.issued_before === null ? "" : isNow ? " issued until now" : ` issued before ${moment(answer.issued_before * 1000)}`;
  say("logged-out", answer.ok, answer.ok ? `Every token with ${name} ${value}${cutOff} is blacklisted.` : answer.detail);
  if (answer.ok) { event.target.reset(); explainWhich(); }
  await show();
}

// What is blacklisted of the chosen claim where nothing else is said.
function usual() {
  return $("claim").selectedOptions[0]?.hasAttribute("data-cut-off") ? "now" : "all";
}

// Say what the choice means for the claim that is chosen.
function explainWhich() {
  const which = $("which").value || usual();
  $("before-label").hidden = which !== "moment";
  $("before").required = which === "moment";
  $("which-note").textContent = {
    now: "A token that is issued later passes: a person may sign in again.",
    all: "What has ended does not come back: a token that is issued later is refused, too.",
    moment: "A moment in the future locks the subject out until then.",
  }[which];
}

async function chart() {
  const answer = await ask("GET", "/-/decisions");
  const counts = Object.entries(answer.decisions || {}).sort((a, b) => b[1] - a[1]).slice(0, 8);
  $("chart-note").textContent = answer.ok ? "Requests since the start, by what became of them." : "Shown when GATEWAY_METRICS_PORT is set.";
  $("chart").replaceChildren(...counts.map(([outcome, count]) => {
    const bar = make("i", "");
    bar.className = outcome;
    bar.style.width = `${(100 * count) / counts[0][1]}%`;
    return make("tr", "", make("th", outcome), make("td", "", bar), make("td", count.toLocaleString()));
  }));
}

// What all of it uses.

function say(place, good, sentence) {
  $(place).className = good ? "good" : "bad";
  $(place).textContent = sentence && (good ? "✓ " : "✗ ") + sentence;
}

function make(name, text, ...children) {
  const element = document.createElement(name);
  element.append(text, ...children);
  return element;
}

function moment(time) {
  const date = new Date(time);
  if (isNaN(date)) return "";
  const parts = [date.toLocaleDateString(undefined, { dateStyle: "medium" }), date.toLocaleTimeString(undefined, { timeStyle: "short" })];
  return parts.map((part) => part.replaceAll(" ", "\u00a0")).join(", "); // broken between the two alone
}

let pause;
$("token").addEventListener("input", () => { clearTimeout(pause); pause = setTimeout(() => show(), 200); });
$("clear").addEventListener("click", () => { $("token").value = ""; $("token").focus(); show(); });
$("blacklist").addEventListener("click", () => change("POST"));
$("restore").addEventListener("click", () => change("DELETE"));
$("logout").addEventListener("submit", logOut);
for (const id of ["claim", "which"]) $(id).addEventListener("change", explainWhich);
$("search").addEventListener("input", list);
$("more").addEventListener("click", more);
explainWhich();
setInterval(tick, 1000);
