// The console's behaviour. The token lives in the text area alone; every answer comes from the gateway itself.
"use strict";

const $ = (id) => document.getElementById(id);
const token = () => $("token").value.trim();
let entries = [], cursor = null, times = null, turn = 0;

// Send a request as the token's holder; return its members and whether it went well, never throw.
async function ask(method, path, body) {
  try {
    const answer = await fetch(path, {
      method, cache: "no-store", credentials: "omit", redirect: "error",
      headers: { Authorization: `Bearer ${token()}`, ...(body && { "Content-Type": "application/json" }) },
      body: body && JSON.stringify(body),
    });
    const text = await answer.text();
    return { ...(text && JSON.parse(text)), ok: answer.ok };
  } catch {
    return { ok: false, detail: "The gateway cannot be reached." };
  }
}

// The token: what it says, and what the gateway says of it.

async function show() {
  const mine = ++turn, pasted = token();
  const [header, claims] = pasted.split(".").map(decoded);
  times = claims && { from: claims.iat ?? claims.nbf, to: claims.exp };
  $("hint").hidden = pasted;
  $("contents").hidden = !header && !claims;
  $("claims").replaceChildren(...rows("Claims", claims), ...rows("Header", header));
  tick();
  const decision = await decide(pasted);
  if (mine !== turn) return;
  const blacklisted = decision.type === "urn:jwt-gateway:token-blacklisted";
  say("verdict", decision.ok, decision.ok ? "The gateway lets this token through." : decision.detail);
  $("actions").hidden = !decision.ok && !blacklisted;
  $("blacklist").disabled = blacklisted;
  $("restore").disabled = !blacklisted;
  await showAdmin(mine, Boolean(decision.ok && claims?.scope));
}

async function decide(pasted) {
  if (!pasted) return { detail: "" };
  return /[^!-~]/.test(pasted) ? { detail: "This is not a token: it has characters that none can have." } : ask("GET", "/-/auth");
}

// Decode one part of the token for showing; the gateway alone says whether it is genuine.
function decoded(part) {
  try {
    const bytes = Uint8Array.from(atob(part.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
    const members = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
    return typeof members === "object" ? members : null;
  } catch {
    return null;
  }
}

function rows(title, members) {
  if (!members) return [];
  const heading = made("th", title);
  heading.colSpan = 2;
  return [made("tr", "", heading), ...Object.entries(members).map(([name, value]) => {
    const row = made("tr", "", made("th", name), made("td", typeof value === "string" ? value : JSON.stringify(value)));
    if (["iat", "nbf", "exp"].includes(name) && typeof value === "number") row.lastChild.append(made("small", moment(value * 1000)));
    return row;
  })];
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
  const told = units.slice(first).slice(0, 2).map(([name, size]) => {
    const count = Math.floor(seconds / size);
    seconds -= count * size;
    return count && `${count} ${name}${count === 1 ? "" : "s"}`;
  });
  return first < 0 ? "a moment" : told.filter(Boolean).join(" ");
}

async function change(method) {
  const answer = await ask(method, "/blacklist");
  await show();
  $(method === "POST" ? "restore" : "blacklist").focus(); // the button that was pressed is disabled
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
  list();
  await chart();
}

async function more() {
  const page = await ask("GET", `/blacklist/entries?cursor=${encodeURIComponent(cursor)}`);
  if (!page.ok) return;
  [entries, cursor] = [entries.concat(page.entries), page.next_cursor];
  list();
}

function list() {
  const wanted = $("search").value.toLowerCase();
  const found = entries.filter((entry) => JSON.stringify(entry).toLowerCase().includes(wanted));
  $("entries").replaceChildren(...found.map(entryRow));
  $("more").hidden = !cursor;
  $("entries-note").textContent = `${found.length} of ${entries.length}${cursor ? " loaded" : ""} entries`;
}

function entryRow(entry) {
  const [[name, value]] = Object.entries(entry.claim || { "": "" });
  const what = entry.claim ? `${name} ${JSON.stringify(value)}` : `token ${entry.fingerprint.slice(0, 12)}…`;
  const until = entry.expires_at ? moment(entry.expires_at) : "it is lifted";
  const cells = { what, since: moment(entry.created_at), until, by: entry.by, for: entry.reason };
  const row = made("tr", "", ...Object.entries(cells).map(([name, text]) => made("td", text)), made("td", ""));
  Object.keys(cells).forEach((name, place) => (row.cells[place].dataset.name = name));
  if (entry.claim) {
    const lift = made("button", "Lift");
    lift.setAttribute("aria-label", `Lift ${what}`);
    lift.onclick = async () => { await ask("DELETE", "/blacklist", entry.claim); await showAdmin(turn); };
    row.lastChild.append(lift);
  }
  return row;
}

async function logOut(event) {
  event.preventDefault();
  const [name, value, reason] = [$("claim").value, $("value").value, $("reason").value];
  let answer;
  for (const each of values(value)) {
    answer = await ask("POST", "/blacklist", { [name]: each, ...(reason && { reason }) });
    if (!answer.ok) break;
  }
  say("logged-out", answer.ok, answer.ok ? `Every token with ${name} ${value} issued until now is blacklisted.` : answer.detail);
  if (answer.ok) event.target.reset();
  await show();
}

// "7001" and 7001 are different claims, and whoever logs 7001 out means both.
function values(text) {
  return String(Number(text)) === text && isFinite(text) ? [text, Number(text)] : [text];
}

async function chart() {
  const answer = await ask("GET", "/-/decisions");
  const counts = Object.entries(answer.decisions || {}).sort((a, b) => b[1] - a[1]).slice(0, 8);
  $("chart-note").textContent = answer.ok ? "Requests since the start, by what became of them." : "Shown when GATEWAY_METRICS_PORT is set.";
  $("chart").replaceChildren(...counts.map(([outcome, count]) => {
    const bar = made("i", "");
    bar.className = outcome;
    bar.style.width = `${(100 * count) / counts[0][1]}%`;
    return made("tr", "", made("th", outcome), made("td", "", bar), made("td", count.toLocaleString()));
  }));
}

// What all of it uses.

function say(place, good, sentence) {
  $(place).className = good ? "good" : "bad";
  $(place).textContent = sentence && (good ? "✓ " : "✗ ") + sentence;
}

function made(name, text, ...children) {
  const element = document.createElement(name);
  element.append(text, ...children);
  return element;
}

function moment(time) {
  const date = new Date(time);
  return isNaN(date) ? "" : date.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

let pause;
$("token").addEventListener("input", () => { clearTimeout(pause); pause = setTimeout(show, 200); });
$("clear").addEventListener("click", () => { $("token").value = ""; $("token").focus(); show(); });
$("blacklist").addEventListener("click", () => change("POST"));
$("restore").addEventListener("click", () => change("DELETE"));
$("logout").addEventListener("submit", logOut);
$("search").addEventListener("input", list);
$("more").addEventListener("click", more);
setInterval(tick, 1000);
