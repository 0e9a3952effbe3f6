"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const items = data.items;
  const STATES = {
    in_doubt: "In doubt", failed: "Failed", expired: "Expired", submitting: "Sending",
    pending: "Rendering", ready: "Rendered", fetching: "Fetching", planned: "Not sent", saved: "Saved",
  };
  const STEP = 48;  // cards made at once: a few screens of a desktop
  const find = id => document.getElementById(id);

  // Everything a stranger may have written becomes a text node: there is no innerHTML on this page.
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === null || value === undefined || value === false) continue;
      element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter(child => child !== null && child !== undefined));
    return element;
  };

  const count = n => n.toLocaleString("en");
  const money = n => `${n.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: n < 1 ? 3 : 2 })} USD`;
  const time = s => {
    if (s < 9.95) return `${s.toFixed(1)} s`;
    const whole = Math.round(s);  // once: 179.7 s are not 2 min and 60 s
    return whole < 120 ? `${whole} s` : `${Math.floor(whole / 60)} min ${whole % 60} s`;
  };
  const bytes = n => n < 1e6 ? `${Math.max(1, Math.round(n / 1e3))} kB` : `${(n / 1e6).toFixed(1)} MB`;
  const moment = text => new Date(text).toLocaleString("en", { dateStyle: "medium", timeStyle: "short" });
  const quoted = text => /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`;
  const sum = numbers => numbers.reduce((a, b) => a + b, 0);

  const counts = {};
  for (const item of items) counts[item.state] = (counts[item.state] || 0) + 1;
  const present = Object.keys(STATES).filter(state => counts[state]);

  // --- head and figures ------------------------------------------------------------------------

  find("title").textContent = data.title;
  const run = data.run;
  const words = [];
  if (run) words.push(`Begun ${moment(data.began || run.started_at)}`);
  if (data.runs > 1) words.push(`${count(data.runs)} runs`);
  if (run && !run.ended_at) words.push(`the last run has not ended (process ${run.pid} on ${run.host})`);
  words.push(`as of ${moment(data.made_at)}`);
  find("when").textContent = words.join(" · ");
  find("source").textContent = `Ledger ${data.ledger}`;

  const saved = counts.saved || 0;
  find("states").append(
    make("h2", {}, "Videos"),
    make("p", { class: "big" }, count(saved), make("small", {}, ` of ${count(items.length)} saved`)),
    make("div", { class: "share", "aria-hidden": "true" }, ...[...present].reverse().map(state => {
      const part = make("i", { class: state });
      part.style.flexGrow = counts[state];
      return part;
    })),
    make("p", { class: "key quiet" }, ...[...present].reverse().map(
      state => make("span", { class: state }, `${count(counts[state])} ${STATES[state].toLowerCase()}`))),
  );

  const spent = sum(items.map(item => item.cost || 0));
  const priced = items.filter(item => item.cost).length;
  const open = sum(items.map(item => item.open));
  find("money").append(
    make("h2", {}, "Cost"),
    make("p", { class: "big" }, money(spent).replace(" USD", ""), make("small", {}, " USD")),
    make("p", { class: "quiet" }, priced ? `${money(spent / priced)} for each that was charged` : "Nothing was charged"),
    ...(open ? [make("p", { class: "quiet" }, `Up to ${money(open)} more may be billed`)] : []),
  );

  const seconds = items.filter(item => item.seconds !== null && ["saved", "ready"].includes(item.state))
    .map(item => item.seconds).sort((a, b) => a - b);
  const quantile = share => seconds[Math.max(0, Math.ceil(share * seconds.length) - 1)];
  const chart = make("div", { class: "chart" });
  if (seconds.length) {
    find("times").append(
      make("div", { class: "times" }, make("h2", {}, "Time from create to file"),
        make("p", { class: "quiet" }, `half within ${time(quantile(0.5))}, 90 % within ${time(quantile(0.9))}, slowest ${time(seconds.at(-1))}`)),
      chart);
    drawTimes();
    let width = innerWidth;
    addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; drawTimes(); } });
  } else {
    find("times").append(make("h2", {}, "Time from create to file"), make("p", { class: "quiet" }, "No video is here yet."));
  }

  function drawTimes() {
    const width = chart.clientWidth || 500, height = 92, floor = height - 18;
    const most = seconds.at(-1) || 1;
    const rough = most / Math.min(40, Math.max(8, width / 14));
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map(n => n * power).find(n => n >= rough);
    const bins = new Array(Math.floor(most / step) + 1).fill(0);
    for (const value of seconds) bins[Math.floor(value / step)] += 1;
    const highest = Math.max(...bins), wide = width / bins.length;
    const svg = (tag, attributes, ...children) => {
      const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
      element.append(...children);
      return element;
    };
    const label = n => step < 1 ? n.toFixed(Math.ceil(-Math.log10(step))) : String(Math.round(n));
    const marks = Math.max(1, Math.ceil(bins.length / (width / 56)));
    const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img",
      "aria-label": `Histogram of ${count(seconds.length)} times: half within ${time(quantile(0.5))}, 90 percent within ${time(quantile(0.9))}` });
    bins.forEach((n, i) => {
      const tall = n ? Math.max(2, n / highest * (floor - 8)) : 0;
      if (n) picture.append(svg("rect", { x: i * wide + 1, y: floor - tall, width: Math.max(1, Math.min(wide - 2, 28)), height: tall, rx: 1.5 },
        svg("title", {}, `${label(i * step)} to ${label((i + 1) * step)} s: ${count(n)}`)));
      if (i % marks === 0) picture.append(svg("text", { x: i * wide + 1, y: height - 3 }, i ? label(i * step) : "0 s"));
    });
    picture.append(svg("line", { x1: 0, x2: width, y1: floor + 0.5, y2: floor + 0.5 }));
    chart.replaceChildren(picture);
  }

  // --- what waits for a person -----------------------------------------------------------------

  const copying = text => {
    const button = make("button", { class: "copy", type: "button", "aria-label": `Copy: ${text}` }, "Copy");
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text);
      } catch {
        // Not every browser gives a local file its clipboard; the selection is always ours.
        const code = button.parentElement.querySelector("code");
        getSelection().selectAllChildren(code);
        document.execCommand("copy");
      }
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    return button;
  };
  // The beginning is the same everywhere and may be cut short on the screen; the end is the point.
  const command = (end, why) => make("div", { class: "command" }, make("span", {}, why),
    make("code", { title: data.command + end }, make("i", {}, data.command), make("b", {}, end)), copying(data.command + end));

  const actions = item => {
    switch (item.state) {
      case "in_doubt": return [[` --found-id ${quoted(`${item.key}=REQUEST_ID`)}`, "With its id from the account's usage:"]];
      case "failed": case "expired":
        return item.retryable ? [[" --retry-failed", "To try it again, with all that failed:"]] : [];
      case "saved": return [];
      default: return [["", "To go on with it:"]];
    }
  };

  const task = (state, states, text, commands) => {
    const here = items.filter(item => states.includes(item.state));
    if (!here.length) return;
    const kinds = new Map();
    for (const item of here) if (item.error_type) kinds.set(item.error_type, (kinds.get(item.error_type) || 0) + 1);
    const show = make("button", { class: "text", type: "button" }, "Show");
    show.addEventListener("click", () => { choose(state); find("chips").scrollIntoView({ block: "start" }); focusCard(0); });
    find("attention").append(make("article", { class: `task ${state}` },
      make("header", {}, make("h3", {}, here.length === counts[state] ? `${count(here.length)} ${STATES[state].toLowerCase()}`
        : states.filter(one => counts[one]).map(one => `${count(counts[one])} ${STATES[one].toLowerCase()}`).join(", ")), show),
      make("p", {}, text),
      kinds.size && state !== "in_doubt" ? make("p", { class: "quiet" }, [...kinds].sort((a, b) => b[1] - a[1])
        .map(([kind, n]) => `${kind}\u00a0${count(n)}`).join(" · ")) : null,
      ...commands.map(([line, why]) => command(line, why))));
  };
  task("in_doubt", ["in_doubt"], "They may have been accepted and billed, and no id is known. Nothing is sent again by itself. Look at the account's usage first.", [
    [" --found-id KEY=REQUEST_ID", "With an id that you found:"],
    [" --resubmit-in-doubt", "To send all of them again, and perhaps pay twice:"]]);
  // What was refused for good would be again, and perhaps billed: no run sends it.
  const again = items.filter(item => item.retryable).length;
  const refused = (counts.failed || 0) + (counts.expired || 0) - again;
  task(counts.failed ? "failed" : "expired", ["failed", "expired"], "Refused, dropped, or ended without a video. Each says why."
    + (refused ? ` ${refused === 1 ? "1 is" : `${count(refused)} are`} not tried again: give another request, under another key.` : ""),
    again ? [[" --retry-failed", "When what was wrong is mended:"]] : []);
  const waiting = ["submitting", "pending", "ready", "fetching", "planned"].filter(state => counts[state]);
  if (waiting.length) {
    task(waiting[0], waiting, run && !run.ended_at ? "Under way, if the batch is still running." : "Under way when the batch ended.",
      [["", "To go on where it ended:"]]);
  }

  // --- cards -----------------------------------------------------------------------------------

  const players = new IntersectionObserver(entries => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting && !target.getAttribute("src")) {
        target.preload = "metadata";
        target.src = target.dataset.src;
      } else if (!isIntersecting && target.paused && target.getAttribute("src")) {
        // A browser holds a few dozen players; those out of sight give theirs back.
        target.removeAttribute("src");
        target.preload = "none";
        target.load();
      }
    }
  }, { rootMargin: "200px" });

  const start = video => {
    if (!video.getAttribute("src")) video.src = video.dataset.src;
    // A pause that comes before the first frame is no failure.
    video.play().catch(() => {});
  };

  const note = text => make("p", { class: "words" }, text);

  const sourceOf = item => {
    const figure = make("figure", {});
    if (item.picture) {
      figure.append(make("img", { loading: "lazy", decoding: "async", src: item.picture, alt: `Source picture of ${item.key}` }));
    } else if (item.link) {
      figure.append(make("p", { class: "words" }, make("a", { href: item.link, target: "_blank", rel: "noreferrer noopener" }, item.link)));
    } else {
      figure.append(note(item.image || "No picture: made from the prompt"));
    }
    return figure;
  };

  const resultOf = item => {
    const figure = make("figure", {});
    if (item.video) {
      const video = make("video", { playsinline: true, tabindex: "-1", preload: "none", "data-src": item.video, "aria-label": `Video of ${item.key}` });
      const play = make("button", { class: "play", type: "button", "aria-label": `Play ${item.key}` });
      play.addEventListener("click", () => start(video));
      video.addEventListener("click", () => { if (!video.controls) start(video); });
      // A player's controls lie over the picture; they come with the first play and go at the end.
      video.addEventListener("ended", () => { video.controls = false; play.hidden = false; });
      video.addEventListener("emptied", () => { video.controls = false; play.hidden = false; });
      video.addEventListener("play", () => {
        video.controls = true;
        video.tabIndex = 0;
        play.hidden = true;
        for (const other of document.querySelectorAll("video")) if (other !== video) other.pause();
      });
      players.observe(video);
      figure.append(video, play);
    } else {
      figure.className = "without";
      figure.append(note(item.state === "saved" ? `The file is not here any more: ${item.path}` : item.error || STATES[item.state]));
    }
    return figure;
  };

  const card = item => make("article", { class: `card ${item.state}`, tabindex: "-1", "aria-label": `${item.key}: ${STATES[item.state]}` },
    make("header", {}, make("h3", {}, item.key), make("span", { class: "state" }, STATES[item.state])),
    make("div", { class: "pair" }, sourceOf(item), resultOf(item)),
    make("p", { class: "prompt" }, item.prompt),
    make("p", { class: "meta" }, ...[
      item.duration && `${item.duration} s of video`, item.resolution, item.ratio,
      item.seconds !== null && `took ${time(item.seconds)}`, item.cost !== null && money(item.cost),
      item.size && bytes(item.size), item.attempts > 1 && `${item.attempts} creates`,
    ].filter(Boolean).map(text => make("span", {}, text)), item.id ? make("span", { class: "id" }, item.id) : null),
    ...actions(item).map(([line, why]) => command(line, why)));

  // --- filter ----------------------------------------------------------------------------------

  const list = find("items"), search = find("search"), more = find("more");
  const texts = items.map(item => [item.key, item.prompt, item.id, item.error_type, item.error, item.image, STATES[item.state]]
    .filter(Boolean).join("\n").toLowerCase());
  let chosen = "all", matching = [], drawn = 0;

  const draw = n => {
    const part = document.createDocumentFragment();
    for (const end = Math.min(matching.length, drawn + n); drawn < end; drawn += 1) part.append(card(items[matching[drawn]]));
    list.append(part);
    if (list.firstElementChild && !list.querySelector('[tabindex="0"].card')) list.firstElementChild.tabIndex = 0;
  };
  const apply = () => {
    const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    matching = [];
    items.forEach((item, i) => {
      if ((chosen === "all" || item.state === chosen) && wanted.every(word => texts[i].includes(word))) matching.push(i);
    });
    for (const video of list.querySelectorAll("video")) { players.unobserve(video); video.pause(); video.removeAttribute("src"); video.load(); }
    list.replaceChildren();
    drawn = 0;
    draw(STEP);
    find("none").hidden = matching.length > 0;
    find("shown").textContent = matching.length === items.length ? `${count(items.length)} items` : `${count(matching.length)} of ${count(items.length)}`;
    for (const chip of find("chips").children) chip.setAttribute("aria-pressed", String(chip.dataset.state === chosen));
    // The end may be in sight without having moved, and nobody would ask for the next ones.
    ending.unobserve(more);
    ending.observe(more);
  };
  const choose = state => { chosen = state; apply(); };
  const clear = () => { search.value = ""; choose("all"); };
  const ending = new IntersectionObserver(entries => {
    if (entries.some(entry => entry.isIntersecting) && drawn < matching.length) {
      draw(STEP);
      ending.unobserve(more);
      ending.observe(more);
    }
  }, { rootMargin: "1200px" });

  for (const state of ["all", ...present]) {
    const chip = make("button", { class: "chip", type: "button", "data-state": state },
      state === "all" ? "All" : STATES[state], make("b", {}, count(state === "all" ? items.length : counts[state])));
    chip.addEventListener("click", () => choose(state));
    find("chips").append(chip);
  }
  let asked = 0;
  search.addEventListener("input", () => { cancelAnimationFrame(asked); asked = requestAnimationFrame(apply); });
  find("clear").addEventListener("click", () => { clear(); search.focus(); });
  addEventListener("beforeprint", () => draw(2000));

  // --- keyboard --------------------------------------------------------------------------------

  function focusCard(index) {
    while (index >= drawn && drawn < matching.length) draw(STEP);
    const next = list.children[Math.max(0, Math.min(index, list.children.length - 1))];
    if (!next) return;
    for (const other of list.querySelectorAll('.card[tabindex="0"]')) other.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }
  const moves = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 };
  addEventListener("keydown", event => {
    const at = event.target;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/" && at !== search) {
      event.preventDefault();
      search.focus();
      search.select();
    } else if (event.key === "Escape") {
      if (search.value || chosen !== "all") { clear(); event.preventDefault(); }
    } else if (at === search && (event.key === "ArrowDown" || event.key === "Enter")) {
      event.preventDefault();
      apply();
      focusCard(0);
    } else if (at.classList && at.classList.contains("chip") && event.key in moves) {
      event.preventDefault();
      const chips = [...find("chips").children];
      chips[(chips.indexOf(at) + moves[event.key] + chips.length) % chips.length].focus();
    } else if (at.classList && at.classList.contains("card")) {
      if (event.key in moves) {
        event.preventDefault();
        const index = [...list.children].indexOf(at) + moves[event.key];
        if (index < 0) search.focus(); else focusCard(index);
      } else if (event.key === "Enter" || event.key === " ") {
        const video = at.querySelector("video");
        if (!video) return;
        event.preventDefault();
        if (video.paused) start(video); else video.pause();
      }
    }
  });

  apply();
})();
