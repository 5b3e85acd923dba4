"use strict";
const KEY_NAME = "recoach-api-key";
const byId = id => document.getElementById(id);
const titles = new Map(); // title of each item ID that the service has named
let historyIds = []; // items of the new user, oldest first
let lastRequest = 0; // number of the last request for lists: earlier ones are dropped

// --- the service ---

// The browser may forbid the storage; then the key is kept until the page is left.
function storedKey() {
  try { return sessionStorage.getItem(KEY_NAME) || ""; } catch { return byId("key").value; }
}

function storeKey(key) {
  try { sessionStorage.setItem(KEY_NAME, key); } catch { /* the input field has it */ }
}

async function call(path, body) {
  const headers = {"content-type": "application/json"};
  if (storedKey()) headers["x-api-key"] = storedKey();
  const options = body ? {method: "POST", headers, body: JSON.stringify(body)} : {headers};
  const response = await fetch(path, options).catch(() => {
    throw new Error("The service does not answer. Try again.");
  });
  const content = await response.json();
  if (response.status === 401) byId("key-form").hidden = false;
  if (!response.ok) throw new Error(content.detail);
  return content;
}

// --- elements ---

function element(tag, text, className = "") {
  const node = document.createElement(tag);
  node.textContent = text;
  node.className = className;
  return node;
}

function badge(text, kind, words) {
  const node = element("span", text, "badge " + kind);
  node.setAttribute("role", "img");
  node.setAttribute("aria-label", words);
  return node;
}

// --- messages ---

function showError(error) {
  byId("error").textContent = error.message;
  byId("result").hidden = true;
}

function clearError() {
  byId("error").textContent = "";
}

const reportErrors = action => action().catch(showError);

// --- the request ---

const isForUser = () => document.querySelector("input[name=whom]:checked").value === "user";

function showPanels() {
  byId("user-panel").hidden = !isForUser();
  byId("history-panel").hidden = isForUser();
  byId("hold-out-choice").hidden = !isForUser();
}

function choose(whom) {
  document.querySelector(`input[name=whom][value=${whom}]`).checked = true;
  showPanels();
}

function showHistoryItems() {
  byId("history").replaceChildren(...historyIds.map((id, index) => {
    const title = titles.get(id) || id;
    const button = element("button", title + " ×");
    button.type = "button";
    button.setAttribute("aria-label", "Remove " + title);
    button.addEventListener("click", () => removeFromHistory(index));
    const row = element("li", "");
    row.append(button);
    return row;
  }));
}

function removeFromHistory(index) {
  historyIds.splice(index, 1);
  clearError();
  showHistoryItems();
  const buttons = byId("history").querySelectorAll("button");
  (buttons[Math.min(index, buttons.length - 1)] || byId("item")).focus();
}

async function search(path, text) {
  const results = await call(path + "?query=" + encodeURIComponent(text));
  if (path === "/v1/items") results.ids.forEach((id, index) => titles.set(id, results.titles[index]));
  return results;
}

// An ID, a whole title, or a part of only one title or ID.
async function findItem(text) {
  const {ids} = await search("/v1/items", text);
  if (ids.includes(text)) return text;
  const isExact = id => [id, titles.get(id)].some(name => name.toLowerCase() === text.toLowerCase());
  const exact = ids.filter(isExact);
  const matches = exact.length ? exact : ids;
  if (matches.length === 1) return matches[0];
  if (!matches.length) throw new Error(`No item has the title or ID “${text}”. Choose one of the suggestions.`);
  const examples = matches.slice(0, 5).map(id => id === titles.get(id) ? id : `${titles.get(id)} (${id})`);
  throw new Error(`Several items match “${text}”. Enter the ID of one, such as ${examples.join(", ")}.`);
}

async function addToHistory() {
  const text = byId("item").value.trim();
  if (!text) return;
  byId("item").value = ""; // first, because a change and a click may both end in this function
  try {
    historyIds.push(await findItem(text));
    clearError();
    showHistoryItems();
  } catch (error) {
    byId("item").value = text;
    throw error;
  }
}

function currentRequest() {
  const request = {k: Number(byId("k").value), exclude_seen: byId("exclude-seen").checked};
  if (!isForUser()) {
    if (!historyIds.length) throw new Error("Add an item first.");
    return {...request, history: historyIds};
  }
  const user = byId("user").value.trim();
  if (!user) throw new Error("Enter a user ID first, or take a random user.");
  return {...request, user, hold_out: byId("hold-out").checked};
}

async function showLists() {
  clearError();
  if (!isForUser()) await addToHistory();
  const request = currentRequest();
  const number = ++lastRequest;
  writeAddress(request);
  const comparison = await call("/v1/compare", request).catch(error => {
    if (number === lastRequest) throw error;
  });
  if (comparison && number === lastRequest) showComparison(comparison, request);
}

async function showRandomUser() {
  byId("user").value = (await call("/v1/users/random")).ids[0];
  await showLists();
}

// --- the address ---

function writeAddress(request) {
  const query = new URLSearchParams();
  if (request.user) query.set("user", request.user);
  (request.history || []).forEach(id => query.append("item", id));
  query.set("k", request.k);
  if (!request.exclude_seen) query.set("exclude_seen", "0");
  if (request.hold_out === false) query.set("hold_out", "0");
  const address = "?" + query;
  if (address !== location.search) history.pushState(null, "", address);
}

async function readAddress() {
  const query = new URLSearchParams(location.search);
  lastRequest++;
  historyIds = query.getAll("item");
  byId("user").value = query.get("user") || "";
  byId("k").value = query.get("k") || 10;
  byId("exclude-seen").checked = query.get("exclude_seen") !== "0";
  byId("hold-out").checked = query.get("hold_out") !== "0";
  choose(historyIds.length ? "history" : "user");
  byId("result").hidden = true;
  clearError();
  showHistoryItems();
  if (!historyIds.length && !query.has("user")) return;
  await showLists();
  const untitled = historyIds.filter(id => !titles.has(id)).slice(0, 20);
  await Promise.all(untitled.map(id => search("/v1/items", id)));
  showHistoryItems();
}

// --- the lists ---

function listIds(side) {
  return new Set(side.items.map(item => item.item_id));
}

// The change of rank from the base to the fine-tuned model, and whether only one list has the item.
function changeBadge(kind, before, after) {
  const difference = Math.abs(before - after);
  const arrow = before === after ? "=" : (after < before ? "↑" : "↓") + difference.toLocaleString();
  const ranks = difference === 1 ? "rank" : "ranks";
  const words = before === after ? "same rank" : `${after < before ? "up" : "down"} ${difference} ${ranks}`;
  if (kind === "moved") return badge(arrow, kind, words);
  return badge(`${kind} ${arrow}`, kind, `${kind}, ${words}`);
}

function itemRow(item, change, ranks) {
  const row = element("li", "");
  const title = element("span", item.title, "title");
  title.title = "ID " + item.item_id;
  row.append(title);
  if (change) row.append(change);
  if (item.held_out) row.append(badge("hit", "hit", "hit: a test item of the user"));
  const details = [...ranks, `${item.taken.toLocaleString()} interactions`];
  if (item.because) details.push("most similar to " + item.because);
  row.append(element("span", details.join(" · "), "small details"));
  return row;
}

function listSection(className, heading, rows) {
  const section = element("section", "", className);
  const list = element("ol", "");
  list.append(...rows);
  section.append(element("h3", heading), list);
  return section;
}

function wideSections([base, tuned]) {
  const inBase = listIds(base), inTuned = listIds(tuned);
  const baseRows = base.items.map(item => itemRow(
    item,
    changeBadge(inTuned.has(item.item_id) ? "moved" : "dropped", item.rank, item.other_rank),
    [`rank ${item.other_rank.toLocaleString()} in ${tuned.model}`]
  ));
  const tunedRows = tuned.items.map(item => itemRow(
    item,
    changeBadge(inBase.has(item.item_id) ? "moved" : "new", item.other_rank, item.rank),
    [`rank ${item.other_rank.toLocaleString()} in ${base.model}`]
  ));
  return [listSection("side", base.model, baseRows), listSection("side", tuned.model, tunedRows)];
}

// For narrow screens: the list of the fine-tuned model, then what is no longer in the list.
function mergedSection([base, tuned]) {
  const inBase = listIds(base), inTuned = listIds(tuned);
  const ranks = (before, after) => [`rank ${before.toLocaleString()} → ${after.toLocaleString()}`];
  const rows = tuned.items.map(item => itemRow(
    item,
    changeBadge(inBase.has(item.item_id) ? "moved" : "new", item.other_rank, item.rank),
    ranks(item.other_rank, item.rank)
  ));
  const section = listSection("merged", `${tuned.model}, compared with ${base.model}`, rows);
  const dropped = base.items.filter(item => !inTuned.has(item.item_id)).map(item => itemRow(
    item,
    changeBadge("dropped", item.rank, item.other_rank),
    ranks(item.rank, item.other_rank)
  ));
  if (dropped.length) {
    const list = element("ul", "");
    list.append(...dropped);
    section.append(element("h3", `No longer among the ${base.items.length}`), list);
  }
  return section;
}

function heldOutRows(comparison) {
  return comparison.held_out.map(heldOut => {
    const row = element("div", `Test item ${heldOut.title}: `, "held-out");
    if (!heldOut.ranks.length) row.append("already in the history, which is left out");
    heldOut.ranks.forEach((rank, index) => {
      const side = comparison.sides[index];
      const isHit = listIds(side).has(heldOut.item_id);
      const kind = isHit ? "hit" : "miss";
      row.append(index ? " · " : "", `${side.model} rank ${rank.toLocaleString()}`, badge(kind, kind, kind));
    });
    return row;
  });
}

function summaryRows(comparison, request) {
  const rows = comparison.words.map(text => element("div", text));
  if (!request.hold_out) return rows;
  if (!comparison.held_out.length) return [...rows, element("div", "This user has no test items.")];
  return [...rows, ...heldOutRows(comparison)];
}

function showComparison(comparison, request) {
  const {sides} = comparison;
  const names = request.history ? "a new user" : "user " + request.user;
  byId("whose").textContent = "Recommendations for " + names;
  byId("summary").replaceChildren(...summaryRows(comparison, request));
  byId("shown-history").textContent = comparison.history.join(" · ") || "empty";
  byId("lists").replaceChildren(...(sides.length > 1
    ? [...wideSections(sides), mergedSection(sides)]
    : [listSection("only", sides[0].model, sides[0].items.map(item => itemRow(item, null, [])))]));
  byId("result").hidden = false;
}

// --- start ---

function addSuggestions(input, list, path) {
  let timer;
  // Suggestions load in the background: their errors are not shown, those of requests are.
  const suggest = () => search(path, input.value).then(results => {
    list.replaceChildren(...results.ids.map((id, index) => {
      const option = element("option", "");
      option.value = id;
      if (results.titles[index] !== id) option.label = results.titles[index];
      return option;
    }));
  }, () => {});
  input.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(suggest, 200); });
  input.addEventListener("focus", suggest, {once: true});
}

async function showModels() {
  const info = await call("/v1/models");
  const run = info.models[0].run;
  const names = info.models.filter(model => model.run === run).map(model => model.name);
  if (names.length === 1) {
    document.querySelector("h1").textContent = "Recommendations";
    byId("intro").textContent = "This page shows what the model of a run recommends to one user.";
  }
  byId("about").textContent = [
    `Run ${run}`, info.dataset, `${info.users.toLocaleString()} users`,
    `${info.items.toLocaleString()} items`, names.join(" and "), `version ${info.version}`
  ].join(" · ");
  byId("reload-error").textContent = info.trouble;
  byId("reload-error").hidden = !info.trouble;
  byId("key-form").hidden = true;
}

async function start() {
  await showModels();
  await readAddress();
}

function onSubmit(form, action) {
  form.addEventListener("submit", event => { event.preventDefault(); reportErrors(action); });
}

addSuggestions(byId("user"), byId("users"), "/v1/users");
addSuggestions(byId("item"), byId("items"), "/v1/items");
onSubmit(byId("request"), showLists);
onSubmit(byId("key-form"), async () => { storeKey(byId("key").value); clearError(); await start(); });
byId("request").addEventListener("input", clearError);
document.querySelectorAll("input[name=whom]").forEach(input => input.addEventListener("change", showPanels));
byId("random").addEventListener("click", () => { clearError(); reportErrors(showRandomUser); });
byId("add").addEventListener("click", () => reportErrors(addToHistory));
byId("item").addEventListener("keydown", event => {
  if (event.key === "Enter" && byId("item").value.trim()) {
    event.preventDefault();
    reportErrors(addToHistory);
  }
});
addEventListener("popstate", () => reportErrors(readAddress));
reportErrors(start);
