// What makes the page handier. Everything on it works without: this only looks again when something changed.
const root = document.body.dataset.root;
const PACE = 2000;
const DAY = 86400000;

function dress() {
  for (const button of document.querySelectorAll(".copy[hidden]")) {
    if (!navigator.clipboard) break;
    button.hidden = false;
  }
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest(".copy");
  if (!button) return;
  await navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent);
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
});

// A year is one drawing: which day is under the pointer is counted from its corner.
function dayAt(drawing, event) {
  const box = drawing.getBoundingClientRect();
  const weeks = drawing.viewBox.baseVal.width;
  const week = Math.floor(((event.clientX - box.left) / box.width) * weeks);
  const weekday = Math.floor(((event.clientY - box.top) / box.height) * 7);
  const day = new Date(Date.parse(drawing.dataset.from) + (week * 7 + Math.min(weekday, 6)) * DAY);
  const text = day.toISOString().slice(0, 10);
  return text <= drawing.dataset.to ? text : null;
}

document.addEventListener("pointermove", (event) => {
  const drawing = event.target.closest?.(".y svg[data-from]");
  if (drawing) drawing.parentElement.title = dayAt(drawing, event) ?? "";
});

document.addEventListener("click", (event) => {
  const drawing = event.target.closest?.(".y svg[data-from]");
  const day = drawing && event.detail > 0 && dayAt(drawing, event);
  if (!day || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  location.assign(`${drawing.parentElement.href}/${day}`);
});

// Who is writing into a form, or has something marked, is not disturbed.
const busy = () => document.activeElement?.closest("form") || !getSelection().isCollapsed || document.hidden;
const REACHED = "a[href], button, summary, [tabindex='0']";
const place = (one) => [...one.querySelectorAll(REACHED)].indexOf(document.activeElement);
let stale = false;
let looking = false;
let status = "";

function say(text) {
  const told = document.getElementById("live");
  if (told && status !== text) told.textContent = text;
  status = text;
}

async function look() {
  if (looking || !stale || busy()) return;
  looking = true;
  stale = false;
  try {
    const answer = await fetch(location.href, { headers: { accept: "text/html" }, cache: "no-store" });
    if (!answer.ok || answer.redirected) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const main = document.getElementById("main");
    const focused = place(main);
    const opened = [...main.querySelectorAll("details")].map((one) => one.open);
    main.replaceChildren(...page.getElementById("main").childNodes);
    document.title = page.title;
    document.querySelector("footer time").replaceWith(page.querySelector("footer time"));
    main.querySelectorAll("details").forEach((one, number) => { one.open = opened[number] ?? one.open; });
    dress();
    if (focused >= 0) main.querySelectorAll(REACHED)[focused]?.focus({ preventScroll: true });
  } finally {
    setTimeout(() => { looking = false; look(); }, PACE);
  }
}

function follow() {
  const about = location.pathname.match(/\/pipelines\/([^/]+)/)?.[1];
  const stream = new EventSource(`${root}live`);
  stream.addEventListener("open", () => say(", live"));
  stream.addEventListener("error", () => say(", not live: connecting again"));
  stream.addEventListener("change", (event) => {
    if (about && !event.data.split(" ").includes(about)) return;
    stale = true;
    look();
  });
  addEventListener("pagehide", () => stream.close());
}

dress();
if ("live" in document.body.dataset) {
  document.addEventListener("visibilitychange", look);
  document.addEventListener("focusout", () => setTimeout(look));
  follow();
}
