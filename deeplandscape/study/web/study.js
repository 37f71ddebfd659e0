/* The page of the user study. Plain JavaScript, no other file than study.css, no request but to the place it came from.

   With a server: POST api/seat gives the sheet of questions, api/page begins a page's time, api/vote takes an answer. Without one (window.STUDY is there): the sheets come
   with the page, and the answers leave it as a file. A vote stays in this browser until it is acknowledged. */
"use strict";
(() => {
const MAIN = document.getElementById("main"), STATUS = document.getElementById("status"), ALONE = window.STUDY || null;
const wait = ms => new Promise(done => setTimeout(done, ms));
const say = text => { if (STATUS.textContent !== text) STATUS.textContent = text; };

// ---------------------------------------------------------------- what is remembered here
const memory = {                                     // works without storage too, until the page is closed
  read(key) { try { return JSON.parse(localStorage.getItem(key)); } catch { return null; } },
  write(key, value) { try { localStorage.setItem(key, JSON.stringify(value)); } catch { /* private mode */ } } };

function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(15));
  return btoa(String.fromCharCode(...bytes)).replace(/\+/g, "-").replace(/\//g, "_");
}

const PLACE = "study " + (ALONE ? ALONE.plan : location.pathname);
const here = new URLSearchParams(location.hash.slice(1));
let me = here.get("id") || memory.read(PLACE + " id") || newId();
if (!/^[A-Za-z0-9_-]{8,64}$/.test(me)) me = newId();
memory.write(PLACE + " id", me);
try { here.set("id", me); history.replaceState(null, "", "#" + here); } catch { /* in a frame without an address */ }
let sheet = null, kept = null;                       // kept: {answers, votes, pending, started, agreed}
const KEY = () => PLACE + " " + me;
const keep = () => memory.write(KEY(), kept);

// ---------------------------------------------------------------- elements
function make(tag, options = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name === "onclick") element.addEventListener("click", value);
    else if (name in element && name !== "list") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function show(...children) {                         // a new screen; the heading gets the focus, so that it is read out
  MAIN.replaceChildren(...children);
  say("");
  const head = MAIN.querySelector("h1, h2");
  if (head) { head.tabIndex = -1; head.focus({ preventScroll: true }); }
  scrollTo(0, 0);
}

// ---------------------------------------------------------------- the server
async function ask(where, body) {
  const reply = await fetch(where, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), credentials: "omit" });
  const content = await reply.json().catch(() => ({}));
  if (!reply.ok) throw Object.assign(new Error(content.error || `The server answered ${reply.status}.`), { status: reply.status });
  return content;
}

let sending = null;
function send() {                                    // everything that is not acknowledged yet, in order, again and again until it is
  if (ALONE || sending || !kept.pending.length) return sending;
  const work = send_all().finally(() => { sending = null; send(); });      // an answer may have come in the meantime
  return sending = work;
}

async function send_all() {
  for (let pause = 500; kept.pending.length;) {
    try { await ask("api/vote", kept.pending[0]); kept.pending.shift(); keep(); pause = 500; if (STATUS.textContent === LOST) say(""); }
    catch (error) {
      if (error.status >= 400 && error.status < 500 && error.status !== 429) { kept.refused.push(error.message); kept.pending.shift(); keep(); continue; }
      say(LOST);
      await wait(pause); pause = Math.min(2 * pause, 8000);
    }
  }
}
const LOST = "The server cannot be reached; your answers are kept here and sent again.";

// ---------------------------------------------------------------- clips, loaded before they are needed
const loaded = new Map();
function load(file) {
  if (!loaded.has(file)) loaded.set(file, (async () => {
    if (location.protocol === "file:" || file.startsWith("data:")) return file;
    for (let tries = 1; ; tries++) {
      try {
        const reply = await fetch(file);
        if (!reply.ok) throw new Error(`${file}: ${reply.status}`);
        return URL.createObjectURL(await reply.blob());
      } catch (error) { if (tries === 5) { loaded.delete(file); throw error; } await wait(400 * tries); }
    }
  })());
  return loaded.get(file);
}

const filesOf = page => [...new Set(page.questions.flatMap(q => [...q.clips, ...(q.photo ? [q.photo] : [])]))];

async function preload(page, title) {
  const files = filesOf(page), bar = make("progress", { max: files.length, value: 0, "aria-label": "videos loaded" });
  const note = make("p", {}, "");
  const count = () => { note.textContent = `Loading the videos: ${bar.value} of ${files.length}.`; };
  for (;;) {
    show(make("h1", {}, title), note, bar); bar.value = 0; count();
    try { await Promise.all(files.map(async file => { await load(file); bar.value += 1; count(); })); return; }
    catch {
      await new Promise(again => show(make("h1", {}, title), make("p", { className: "wrong" }, "Some videos could not be loaded. Your answers are safe."),
                                      make("button", { onclick: again }, "Try again")));
    }
  }
}

// ---------------------------------------------------------------- players that run together
class Players {
  constructor(videos, whenSeen) {
    Object.assign(this, { videos, whenSeen, plays: 0, stalls: 0, began: null, paused: false, over: false });
    for (const video of videos) video.addEventListener("waiting", () => { if (this.began !== null && !video.seeking) this.stalls += 1; });
    this.hidden = () => document.hidden ? this.videos.forEach(v => v.pause()) : this.paused || this.resume();
    document.addEventListener("visibilitychange", this.hidden);
  }
  async start() {
    await Promise.all(this.videos.map(video => video.readyState >= 3 ? null : new Promise(ready => video.addEventListener("canplay", ready, { once: true }))));
    if (this.over) return;
    this.began ??= performance.now();
    if (!document.hidden && !this.paused) await this.resume();
    if (!this.over) requestAnimationFrame(() => this.watch());
  }
  async resume() {
    try { await Promise.all(this.videos.map(video => video.ended ? null : video.play())); }
    catch (error) { if (error.name === "NotAllowedError") { this.paused = true; say("Press Play to start the videos."); this.changed?.(); } }
  }
  watch() {                                          // once a frame: in step, and round again after a short fade
    if (this.over) return;
    const [a, b = a] = this.videos, ahead = a.currentTime - b.currentTime;
    if (Math.abs(ahead) > 0.08 && !a.ended && !b.ended) (ahead > 0 ? a : b).currentTime = Math.min(a.currentTime, b.currentTime);
    if (this.videos.every(video => video.ended)) { this.round(); return; }
    requestAnimationFrame(() => this.watch());
  }
  async round() {
    this.plays += 1;
    if (this.plays === 1) this.whenSeen();
    this.videos.forEach(video => video.classList.add("between"));
    await wait(350);
    if (this.over) return;
    this.videos.forEach(video => { video.currentTime = 0; });
    await Promise.all(this.videos.map(video => new Promise(done => { video.seeking ? video.addEventListener("seeked", done, { once: true }) : done(); })));
    this.videos.forEach(video => video.classList.remove("between"));
    if (!this.over && !this.paused && !document.hidden) await this.resume();
    if (!this.over) requestAnimationFrame(() => this.watch());
  }
  toggle() { this.paused = !this.paused; this.paused ? this.videos.forEach(v => v.pause()) : this.resume(); this.changed?.(); }
  end() { this.over = true; document.removeEventListener("visibilitychange", this.hidden); this.videos.forEach(video => { video.pause(); video.removeAttribute("src"); video.load(); }); }
}

async function video(file, label) {
  const element = make("video", { muted: true, playsInline: true, preload: "auto", "aria-label": label, disablePictureInPicture: true });
  element.src = await load(file);
  return element;
}

// ---------------------------------------------------------------- one question
const WORDS = {
  "side by side": { left: ["Left is more realistic", "←"], right: ["Right is more realistic", "→"] },
  "real or fake": { real: ["It is real", "←"], fake: ["It is not real", "→"] } };

async function ask_one(question, protocol, head, note) {     // -> {answer, by, seconds, waited, plays, stalls}
  const pair = protocol === "side by side", words = Object.entries(WORDS[protocol]);
  const clips = await Promise.all(question.clips.map((file, i) => video(file, pair ? ["left video", "right video"][i] : "video")));
  let unlocked = null, answered = null;
  const answer = new Promise(done => { answered = done; });
  const choose = (name, by) => {
    if (unlocked === null) { say(`You can answer as soon as ${pair ? "both videos have played to their" : "the video has played to its"} end.`); return; }
    const now = performance.now();
    document.removeEventListener("keydown", keys);
    buttons.forEach(button => { button.disabled = true; button.classList.toggle("chosen", button.name === name); });
    answered({ answer: name, by, seconds: (now - players.began) / 1000, waited: (now - unlocked) / 1000, plays: players.plays, stalls: players.stalls });
  };
  const byKey = event => event.detail === 0 ? "keyboard" : "pointer";       // a click made by Enter or space has no clicks to count
  const buttons = words.map(([name, [text, key]]) => make("button", { name, disabled: true, onclick: event => choose(name, byKey(event)) }, text, make("kbd", { "aria-hidden": "true" }, key)));
  const players = new Players(clips, () => {
    unlocked = performance.now();
    buttons.forEach(button => { button.disabled = false; });
    say(pair ? "Which is more realistic? Left or right arrow key, or a button." : "Is it real? Left arrow key: real. Right arrow key: not real.");
  });
  const pause = make("button", { className: "quiet again", onclick: () => players.toggle() }, "Pause");
  players.changed = () => { pause.textContent = players.paused ? "Play" : "Pause"; };
  const keys = event => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.repeat) return;
    const side = { ArrowLeft: 0, 1: 0, ArrowRight: 1, 2: 1 }[event.key];
    if (side !== undefined) { event.preventDefault(); choose(words[side][0], "keyboard"); }
    else if (event.key.toLowerCase() === "p" || (event.key === " " && event.target.tagName !== "BUTTON")) { event.preventDefault(); players.toggle(); }
  };
  document.addEventListener("keydown", keys);
  const figure = (element, className, caption) => make("figure", { className }, element, make("figcaption", {}, caption));
  const stage = make("div", { className: "stage " + (pair ? "pair" + (question.photo ? "" : " bare") : "single") });
  if (pair) {
    stage.append(figure(clips[0], "left", "left video"));
    if (question.photo) stage.append(figure(make("img", { src: await load(question.photo), alt: "the photograph that both videos were made from" }), "photo", "the photograph"));
    stage.append(figure(clips[1], "right", "right video"));
    buttons[0].classList.add("first"); buttons[1].classList.add("second");
    stage.append(buttons[0], pause, buttons[1]);
  } else stage.append(figure(clips[0], "only", "the video"), make("div", { className: "choices" }, ...buttons), pause);
  show(...head, stage, ...(note ? [note] : []));
  say(pair ? "The videos play. You can answer when they have come to their end." : "The video plays. You can answer when it has come to its end.");
  players.start();
  const stop = () => { document.removeEventListener("keydown", keys); players.end(); };
  return { answer, stop, players };
}

// ---------------------------------------------------------------- the screens
function welcome() {
  const box = make("input", { type: "checkbox", id: "agree" });
  const begin = make("button", { disabled: true }, "Begin");
  box.addEventListener("change", () => { begin.disabled = !box.checked; });
  const questions = sheet.pages.reduce((n, page) => n + page.questions.length, 0);
  const item = text => make("li", {}, text);
  return new Promise(done => {
    begin.addEventListener("click", done);
    show(make("h1", {}, sheet.title),
         make("p", {}, `You will see short videos of landscapes and say which look real. There are ${questions} questions, for about ${Math.ceil(questions * 25 / 60)} minutes.`),
         make("h2", {}, "What is stored"),
         make("ul", {}, item("your answers, how long they took and whether a key or a pointer gave them,"), item("the width of your window,"),
              item("a random number in place of your name. No name, no address, no cookie, and nothing is sent to anybody else.")),
         make("p", {}, "Taking part is voluntary. You may stop at any time by closing the page; the answers given so far stay stored, and with the same link you can go on later."),
         ...(sheet.contact ? [make("p", {}, "The study is held by: " + sheet.contact)] : []),
         make("label", { htmlFor: "agree" }, box, make("span", {}, "I have read this, I am 18 or older, and I take part.")), begin);
    box.focus();
  });
}

async function example() {
  const pair = sheet.protocol === "side by side";
  const how = pair ? "Two videos were made from the same photograph, which is shown with them. Choose the one that looks more realistic to you: as if a camera had filmed it."
                   : "You see one video. Say whether a camera filmed it, or whether it was made by a computer.";
  const alone = pair && !(sheet.example || sheet.pages[0].questions[0]).photo ? "Two videos were made by computers. Choose the one that looks more realistic to you: as if a camera had filmed it." : how;
  const text = [make("h1", {}, "How it works"), make("p", {}, alone)];
  const rest = make("p", {}, "Some videos look alike: then choose what you find a little better. Keys: left and right arrow answer, P pauses.");
  if (!sheet.example) return new Promise(done => show(...text, rest, make("button", { onclick: done }, "Go on")));
  const hint = sheet.example.answer;
  const task = `An example that does not count. ${pair ? `The ${hint} video runs as it should; in the other the frames are mixed up.` : "The frames are mixed up, so it is not real."} Wait until it has ended, then choose “${WORDS[sheet.protocol][hint][0]}”.`;
  await preload({ questions: [sheet.example] }, "How it works");
  for (;;) {
    const { answer, stop } = await ask_one(sheet.example, sheet.protocol, [...text, make("p", {}, task)], rest.cloneNode(true));
    const given = await answer;
    await wait(300); stop();
    if (given.answer === hint) return;
    await new Promise(done => show(make("h1", {}, "Once more"), make("p", {}, `That was the other one. The example has a known answer: “${WORDS[sheet.protocol][hint][0]}”.`), make("button", { onclick: done }, "Show it again")));
  }
}

function between(number) {
  const page = sheet.pages[number];
  return new Promise(done => {
    const go = make("button", { onclick: done }, "Start");
    show(make("h1", {}, sheet.pages.length > 1 ? `Page ${number + 1} of ${sheet.pages.length}` : "Now your part"),
         make("p", {}, `${page.questions.length} questions. You have ${Math.round(page.limit / 60 * 10) / 10} minutes, which is plenty.`), go);
    go.focus();
  });
}

function record(question, given) {
  const vote = { plan: sheet.plan, assessor: me, question: question.id, width: Math.max(1, innerWidth), machine: navigator.webdriver === true, ...given };
  for (const name of ["seconds", "waited"]) vote[name] = Math.round(vote[name] * 1000) / 1000;
  kept.answers[question.id] = vote.answer; kept.votes.push(vote);
  if (!ALONE) kept.pending.push(vote);
  keep(); send();
}

function clock_of(number, left) { kept.started[number] = Date.now() - 1000 * (sheet.pages[number].limit - left); }

async function begin_page(number) {                  // the time of the page runs from here; with a server by its clock, here and elsewhere
  let left = sheet.pages[number].limit;
  for (let pause = 500; !ALONE; pause = Math.min(2 * pause, 8000)) {
    try { left = (await ask("api/page", { assessor: me, page: number })).left; break; }
    catch (error) { if (error.status >= 400 && error.status < 500 && error.status !== 429) break; say(LOST); await wait(pause); }
  }
  clock_of(number, left); keep();
}

async function run_page(number) {
  const page = sheet.pages[number], open = page.questions.filter(question => !(question.id in kept.answers));
  if (!open.length) return;
  const title = sheet.pages.length > 1 ? `Page ${number + 1} of ${sheet.pages.length}` : sheet.title;
  await preload(page, title);
  if (!kept.started[number]) { await between(number); await begin_page(number); }
  if (sheet.pages[number + 1]) filesOf(sheet.pages[number + 1]).forEach(file => load(file).catch(() => {}));
  const ends = kept.started[number] + 1000 * page.limit;
  for (const question of open) {
    const clock = make("span", {}, ""), done = page.questions.filter(q => q.id in kept.answers).length;
    const head = [make("div", { className: "bar" }, make("span", {}, `${sheet.pages.length > 1 ? `Page ${number + 1} of ${sheet.pages.length}, q` : "Q"}uestion ${done + 1} of ${page.questions.length}`), clock),
                  make("progress", { max: page.questions.length, value: done, "aria-label": "answered" }),
                  make("h2", {}, sheet.protocol === "side by side" ? "Which video is more realistic?" : "Is this video real?")];
    const tick = () => {
      const left = Math.max(0, Math.ceil((ends - Date.now()) / 1000));
      clock.textContent = `time left ${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")}`;
      return left;
    };
    if (!tick()) break;
    const { answer, stop } = await ask_one(question, sheet.protocol, head);
    let timer;
    const late = new Promise(over => { timer = setInterval(() => { if (!tick()) over(null); }, 250); });
    const given = await Promise.race([answer, late]);
    clearInterval(timer);
    if (given) { record(question, given); await wait(200); }
    stop();
    if (!given) break;
  }
  const missed = page.questions.filter(question => !(question.id in kept.answers));
  missed.forEach(question => record(question, { answer: "none", by: "clock", seconds: 0, waited: 0, plays: 0, stalls: 0 }));
  if (missed.length) await new Promise(done => show(make("h1", {}, "The time of this page is over"), make("p", {}, `${missed.length} questions stay without an answer. That is no fault.`), make("button", { onclick: done }, "Go on")));
}

function download() {
  const text = JSON.stringify({ plan: sheet.plan, assessor: me, seat: sheet.seat, votes: kept.votes });
  const link = make("a", { href: URL.createObjectURL(new Blob([text], { type: "application/json" })), download: `votes-${me}.json` });
  document.body.append(link); link.click(); link.remove();
}

function finish() {
  say("");
  const code = [...sheet.plan.slice(0, 4), ...me.slice(0, 6)].join("");
  if (!ALONE) return show(make("h1", {}, "Thank you"), make("p", {}, kept.refused.length ? `The server refused ${kept.refused.length} of your answers: ${kept.refused[0]}` : "All your answers are stored. You can close this page."), make("p", {}, "A code, should you be asked for one: ", make("strong", {}, code)));
  show(make("h1", {}, "Thank you"), make("p", {}, "Your answers are in this browser only. Save them as a file and hand it to those who hold the study."), make("button", { onclick: download }, "Save the answers"),
       make("p", {}, "A code, should you be asked for one: ", make("strong", {}, code)), make("label", {}, "Or copy this:"), make("textarea", { readOnly: true, rows: 4, cols: 40, value: JSON.stringify({ plan: sheet.plan, assessor: me, seat: sheet.seat, votes: kept.votes }), "aria-label": "your answers as text" }));
}

async function open_sheet() {
  if (!ALONE) return ask("api/seat", { assessor: me, machine: navigator.webdriver === true });
  const asked = Number(new URLSearchParams(location.search).get("seat") ?? memory.read(PLACE + " seat") ?? NaN), count = ALONE.sheets.length;
  const seat = Number.isInteger(asked) && asked >= 0 && asked < count ? asked : crypto.getRandomValues(new Uint32Array(1))[0] % count;
  memory.write(PLACE + " seat", seat);
  return { ...ALONE.common, ...ALONE.sheets[seat], answered: {} };
}

async function main() {
  for (;;) {
    try { sheet = await open_sheet(); break; }
    catch (error) {
      if (error.status >= 400 && error.status < 500) { show(make("h1", {}, "The study cannot be opened"), make("p", {}, error.message)); return; }
      await new Promise(again => show(make("h1", {}, "The study cannot be reached"), make("p", {}, "Is the network there? Nothing is lost."), make("button", { onclick: again }, "Try again")));
    }
  }
  document.title = sheet.title;
  const empty = { answers: {}, votes: [], pending: [], refused: [], started: {}, agreed: false };
  kept = { ...empty, ...(memory.read(KEY()) || {}) };
  if (kept.plan !== undefined && kept.plan !== sheet.plan) kept = empty;
  kept.plan = sheet.plan;
  for (const [question, answer] of Object.entries(sheet.answered)) kept.answers[question] ??= answer;
  for (const [number, left] of Object.entries(sheet.left ?? {})) clock_of(number, left);
  keep(); send();
  if (!kept.agreed) { await welcome(); await example(); kept.agreed = true; keep(); }
  for (let number = 0; number < sheet.pages.length; number++) await run_page(number);
  if (kept.pending.length && !ALONE) show(make("h1", {}, "One moment"), make("p", {}, "The last answers are being stored."));
  while (kept.pending.length && !ALONE) await send();
  finish();
}

main();
})();
