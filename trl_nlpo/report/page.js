"use strict";

const PAGE_SIZE = 50;

const dataOf = (id) => JSON.parse(document.getElementById(id).textContent);

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

/* Tasks: one is shown at a time. */
function showTask(chosen) {
  for (const tab of document.querySelectorAll(".tabs button")) {
    const isChosen = tab === chosen;
    tab.setAttribute("aria-selected", String(isChosen));
    document.getElementById(tab.getAttribute("aria-controls")).hidden = !isChosen;
  }
}

/* Figures are drawn when they come near the screen. */
function draw(plot) {
  if (plot.dataset.drawn) return;
  plot.dataset.drawn = "yes";
  const figure = dataOf(plot.dataset.figure);
  const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d"] };
  const hidden = hiddenGroups(plot.closest("[data-task]"));
  for (const trace of figure.data) trace.visible = !hidden.has(trace.meta);
  Plotly.newPlot(plot, figure.data, figure.layout, config);
}

/* Of several groups of runs, those that are switched off. */
function hiddenGroups(panel) {
  const off = panel.querySelectorAll(".groups [aria-pressed='false']");
  return new Set([...off].map((button) => Number(button.dataset.group)));
}

function switchGroup(button) {
  button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
  const panel = button.closest("[data-task]");
  const hidden = hiddenGroups(panel);
  for (const plot of panel.querySelectorAll(".plot[data-drawn]")) {
    if (plot.data) Plotly.restyle(plot, { visible: plot.data.map((trace) => !hidden.has(trace.meta)) });
  }
}

function watchFigures() {
  const plots = document.querySelectorAll(".plot");
  const observer = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (entry.isIntersecting) {
          observer.unobserve(entry.target);
          draw(entry.target);
        }
      }
    },
    { rootMargin: "200px" },
  );
  plots.forEach((plot) => observer.observe(plot));
  window.addEventListener("beforeprint", () => {
    for (const plot of plots) if (plot.offsetParent !== null) draw(plot);
  });
}

/* Sortable tables: cells have what they are sorted by in data-value; those without come last either way. */
function compareValues(first, second, sign) {
  if (first === undefined || second === undefined) return (first === undefined) - (second === undefined);
  const numbers = [Number(first), Number(second)];
  const difference = numbers.some(Number.isNaN) ? first.localeCompare(second) : numbers[0] - numbers[1];
  return sign * difference;
}

function sortBy(header) {
  const table = header.closest("table");
  const direction = header.getAttribute("aria-sort") === "descending" ? "ascending" : "descending";
  for (const other of table.querySelectorAll("th[aria-sort]")) other.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", direction);
  const sign = direction === "ascending" ? 1 : -1;
  const rows = [...table.tBodies[0].rows];
  const valueOf = (row) => row.cells[header.cellIndex].dataset.value;
  rows.sort((first, second) => compareValues(valueOf(first), valueOf(second), sign));
  table.tBodies[0].append(...rows);
}

/* Samples: searched, filtered and sorted here, fifty prompts at a time. */
class Samples {
  constructor(root) {
    this.root = root;
    this.data = dataOf(root.dataset.samples);
    this.lowered = this.data.cells.map((row) => row.map((cell) => (cell ? cell.text.toLowerCase() : "")));
    this.loweredPrompts = this.data.prompts.map((prompt) => prompt.toLowerCase());
    this.page = 0;
    this.shown = this.data.columns.map((column) => column.shown);
    this.fillControls();
    let waiting;
    root.addEventListener("input", (event) => {
      clearTimeout(waiting);
      if (event.target.dataset.column !== undefined) {
        this.shown[Number(event.target.dataset.column)] = event.target.checked;
      }
      waiting = setTimeout(() => this.find(), event.target.type === "search" ? 120 : 0);
    });
    this.part("previous").addEventListener("click", () => this.turn(-1));
    this.part("next").addEventListener("click", () => this.turn(1));
    this.find();
  }

  part(name) {
    return this.root.querySelector(`[data-part="${name}"]`);
  }

  fillControls() {
    const option = (select, value, text) => {
      const made = element("option", text);
      made.value = value;
      this.part(select).append(made);
    };
    this.data.columns.forEach((column, index) => {
      option("within", String(index), column.name);
      option("scored", String(index), column.name);
      option("order", `high ${index}`, `highest score: ${column.name}`);
      option("order", `low ${index}`, `lowest score: ${column.name}`);
      const label = element("label");
      const box = element("input");
      box.type = "checkbox";
      box.checked = column.shown;
      box.dataset.column = String(index);
      label.append(box, column.name);
      this.part("columns").append(label);
    });
    this.part("scored").selectedIndex = this.data.columns.length - 1;
    const [first, last] = this.endsShown();
    if (first !== last) {
      option("order", "gain", "largest gain, first to last column shown");
      option("order", "loss", "largest loss, first to last column shown");
    }
  }

  endsShown() {
    const places = this.shown.flatMap((isShown, index) => (isShown ? [index] : []));
    return [places[0], places[places.length - 1]];
  }

  score(row, column) {
    const cell = column === undefined ? null : this.data.cells[row][column];
    return cell && cell.score !== null ? cell.score : undefined;
  }

  matches(row, words, within) {
    if (!words) return true;
    if (within === "prompt") return this.loweredPrompts[row].includes(words);
    if (within !== "all") return this.lowered[row][Number(within)].includes(words);
    return (
      this.loweredPrompts[row].includes(words) ||
      this.lowered[row].some((text, column) => this.shown[column] && text.includes(words))
    );
  }

  find() {
    this.words = this.part("words").value.toLowerCase();
    this.within = this.part("within").value;
    const scored = Number(this.part("scored").value);
    const [least, most] = ["least", "most"].map((name) => this.part(name).value);
    const isWithin = (row) => {
      if (least === "" && most === "") return true;
      const score = this.score(row, scored);
      return score !== undefined && (least === "" || score >= Number(least)) && (most === "" || score <= Number(most));
    };
    this.found = [...this.data.prompts.keys()].filter(
      (row) => this.matches(row, this.words, this.within) && isWithin(row),
    );
    this.sort(this.part("order").value);
    this.page = 0;
    this.show();
  }

  sort(order) {
    if (order === "given") return;
    const [kind, column] = order.split(" ");
    const [first, last] = this.endsShown();
    const keyOf = (row) => {
      if (column !== undefined) return this.score(row, Number(column));
      const ends = [this.score(row, first), this.score(row, last)];
      return ends.includes(undefined) ? undefined : ends[1] - ends[0];
    };
    const sign = kind === "low" || kind === "loss" ? 1 : -1;
    const keys = new Map(this.found.map((row) => [row, keyOf(row)]));
    this.found.sort((one, other) => compareValues(keys.get(one), keys.get(other), sign));
  }

  turn(step) {
    this.page += step;
    this.show();
    this.root.scrollIntoView();
  }

  show() {
    const columns = this.data.columns.flatMap((column, index) => (this.shown[index] ? [index] : []));
    const head = element("tr");
    for (const name of ["prompt", ...columns.map((index) => this.data.columns[index].name)]) {
      const cell = element("th", name);
      cell.scope = "col";
      head.append(cell);
    }
    const rows = this.found.slice(this.page * PAGE_SIZE, (this.page + 1) * PAGE_SIZE).map((row) => {
      const made = element("tr");
      const prompt = element("td");
      this.write(prompt, this.data.prompts[row], this.within === "all" || this.within === "prompt");
      made.append(prompt, ...columns.map((column) => this.cell(row, column)));
      return made;
    });
    this.part("head").replaceChildren(head);
    this.part("rows").replaceChildren(...rows);
    const [from, to] = [this.page * PAGE_SIZE + 1, this.page * PAGE_SIZE + rows.length];
    const size = this.data.prompts.length;
    this.part("count").textContent = rows.length ? `${from} to ${to} of ${this.found.length}` : "nothing found";
    if (this.found.length < size) this.part("count").textContent += ` (of ${size} prompts)`;
    this.part("previous").disabled = this.page === 0;
    this.part("next").disabled = to >= this.found.length;
  }

  cell(row, column) {
    const made = element("td");
    const sample = this.data.cells[row][column];
    if (!sample) {
      made.append(element("span", "-", "soft"));
      return made;
    }
    this.write(made, sample.text, this.within === "all" || this.within === String(column));
    const score = element("span", `score ${sample.score === null ? "none" : rounded(sample.score)}`, "score");
    score.title = Object.entries(sample.more).map(([name, value]) => `${name}: ${rounded(value)}`).join("\n");
    made.append(element("br"), score);
    return made;
  }

  /* Text with what was searched for marked. */
  write(place, text, isSearched) {
    const lowered = text.toLowerCase();
    // A few letters grow when they are lowered, and places in the text move.
    if (!this.words || !isSearched || lowered.length !== text.length) {
      place.append(text);
      return;
    }
    let start = 0;
    for (let at = lowered.indexOf(this.words); at >= 0; at = lowered.indexOf(this.words, start)) {
      const end = at + this.words.length;
      place.append(text.slice(start, at), element("mark", text.slice(at, end)));
      start = end;
    }
    place.append(text.slice(start));
  }
}

function rounded(value) {
  return typeof value === "number" ? String(Number(value.toPrecision(4))) : value;
}

for (const tab of document.querySelectorAll(".tabs button")) tab.addEventListener("click", () => showTask(tab));
for (const header of document.querySelectorAll("th[aria-sort]")) {
  header.querySelector("button").addEventListener("click", () => sortBy(header));
}
for (const box of document.querySelectorAll("[data-part='only-differing']")) {
  const follow = () => {
    document.getElementById(box.getAttribute("aria-controls")).classList.toggle("only-differing", box.checked);
  };
  box.addEventListener("change", follow);
  follow();
}
for (const button of document.querySelectorAll(".groups button")) {
  button.addEventListener("click", () => switchGroup(button));
}
for (const root of document.querySelectorAll("[data-samples]")) new Samples(root);
// Plotly stands behind this script, so that samples need not wait until it is read.
document.addEventListener("DOMContentLoaded", watchFigures);
document.documentElement.dataset.ready = "yes";
