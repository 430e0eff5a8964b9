// What both reports draw with; inlined by pipelines/reporting/run_report.py.
// Children are nodes or text; text always becomes a text node, so data cannot become markup.
function h(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") node.style.cssText += value;
    else if (name === "tone") node.style.setProperty("--tone", value);
    else if (value !== null && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter(child => child !== null && child !== undefined));
  return node;
}
function s(tag, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}
const percent = value => `${(100 * value).toFixed(1)}%`;
function duration(seconds) {
  const whole = Math.round(seconds);
  if (whole < 60) return `${seconds < 10 ? seconds.toFixed(1) : whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.round(whole % 3600 / 60)} min`;
}
function number(value) {
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(1).replace("e+", "e");
  if (size >= 1000) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(3)));
}
function ticks(low, high, count) {
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].find(factor => factor * power >= raw * 0.999) * power;
  const list = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + step * 1e-9; value += step) list.push(Number(value.toPrecision(10)));
  return list;
}
const PARTS = { type: "Task type", solution: "Own solution", rubric: "Rubric", justify: "Why this rubric", eval: "Evaluation", answer: "Verdict" };
const COLOURS = { type: "var(--c5)", solution: "var(--c4)", rubric: "var(--c3)", justify: "var(--c3)", eval: "var(--c2)", answer: "var(--c1)" };
// For reading only: cuts the text at the judgment tags and shows every character between them. The verdict comes from the data.
function judgment(text) {
  const blocks = [], open = [];
  for (const piece of text.split(/(<\/?(?:type|solution|rubric|justify|eval|answer)>)/)) {
    const tag = /^<(\/?)(type|solution|rubric|justify|eval|answer)>$/.exec(piece);
    if (!tag) { if (piece.trim()) blocks.push([open[open.length - 1] || null, piece.trim()]); }
    else if (!tag[1]) open.push(tag[2]);
    else if (open.includes(tag[2])) open.length = open.lastIndexOf(tag[2]);
  }
  return blocks.map(([name, content]) => h("div", { class: "part", tone: name ? COLOURS[name] : "var(--line)" }, h("h3", null, name ? PARTS[name] : "Outside the tags"), h("div", { class: "text" }, content)));
}
// A filtered list in pages. choices: [{ label, values: [[value, text]], fits(row, value) }]; texts(row): what is searched.
const PAGE = 20;
function browse(rows, { noun, choices, texts, card }) {
  const chosen = choices.map(() => ""), list = h("div"), count = h("span", { class: "soft", "aria-live": "polite" });
  let needle = "", page = 0;
  const show = () => {
    const found = rows.filter(row => choices.every(({ fits }, index) => !chosen[index] || fits(row, chosen[index]))
      && (!needle || texts(row).some(text => String(text ?? "").toLowerCase().includes(needle))));
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    page = Math.min(page, pages - 1);
    count.textContent = `${found.length.toLocaleString("en")} ${noun}s`;
    const turn = (label, by, off) => { const button = h("button", { onclick: () => { page += by; show(); list.scrollIntoView(); } }, label); button.disabled = off; return button; };
    list.replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map(card), found.length ? h("div", { class: "pager" }, turn("Previous", -1, page === 0),
      h("span", { class: "soft" }, `page ${page + 1} of ${pages}`), turn("Next", 1, page >= pages - 1)) : h("p", { class: "soft" }, `No ${noun} matches.`));
    if (found.length) list.firstChild.open = true;
  };
  const choice = ({ label, values }, index) => h("select", { "aria-label": label, onchange: event => { chosen[index] = event.target.value; page = 0; show(); } },
    h("option", { value: "" }, label), values.map(([value, text]) => h("option", { value }, text)));
  const search = h("input", { type: "search", placeholder: "search the text", "aria-label": "search the text", oninput: event => { needle = event.target.value.toLowerCase(); page = 0; show(); } });
  const filters = h("div", { class: "filters" }, choices.map(choice), search, count);
  show();
  return [filters, list];
}
