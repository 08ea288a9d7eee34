// Token chips (chips.py): texts come as data and are written with textContent, so nothing in them is ever markup.
// One Tab stop for all chips; arrows, Home and End move between them; Enter or a click picks one where that is wanted.

const NAMES = { t: "", s: "s", u: "u", c: "c", p: "", x: "x" };
const CIVIDIS = [[0, 34, 78], [54, 67, 109], [122, 124, 121], [187, 175, 113], [255, 234, 70]];

function heatColour(value) {
  const place = value * (CIVIDIS.length - 1), low = Math.min(Math.floor(place), CIVIDIS.length - 2);
  return CIVIDIS[low].map((from, i) => Math.round(from + (CIVIDIS[low + 1][i] - from) * (place - low)));
}

function dress(chip, letter, index) {
  chip.className = `chip ${letter === "t" ? `t${index % 4}` : NAMES[letter]}`;
}

function isDark(root) {
  const parts = getComputedStyle(root).color.match(/\d+/g) || [0, 0, 0];
  return 0.3 * parts[0] + 0.6 * parts[1] + 0.1 * parts[2] > 128;  // light text: a dark theme
}

export default function (component) {
  const { data, parentElement, setTriggerValue } = component;
  let root = parentElement.querySelector(".chips");
  const focused = root ? Number(root.querySelector(".chip:focus")?.dataset.index ?? -1) : -1;
  if (!root) {
    root = document.createElement("div");
    parentElement.appendChild(root);
  }
  root.className = `chips${data.pick ? " pick" : ""}${isDark(root) ? " dark" : ""}`;
  root.replaceChildren();

  if (data.legend.length) {
    const legend = document.createElement("div");
    legend.className = "legend";
    for (const [letter, words] of data.legend) {
      const item = document.createElement("span"), chip = document.createElement("span");
      dress(chip, letter, 0);
      chip.textContent = "ab";
      chip.setAttribute("aria-hidden", "true");
      item.append(chip, words);
      legend.append(item);
    }
    root.append(legend);
  }

  const list = document.createElement("div"), tip = document.createElement("div");
  list.setAttribute("role", "group");
  list.setAttribute("aria-label", data.label);
  tip.className = "tip";
  tip.setAttribute("role", "tooltip");
  const breaks = new Set(data.breaks);
  const stop = focused >= 0 && focused < data.texts.length ? focused : Math.min(Math.max(data.selected ?? 0, 0), data.texts.length - 1);
  data.texts.forEach((text, index) => {
    const chip = document.createElement("span");
    dress(chip, data.styles[index], data.first + index);
    if (index === data.selected) chip.classList.add("selected");
    if (data.heat.length && data.heat[index] !== null) {
      const [r, g, b] = heatColour(data.heat[index]);
      chip.style.background = `rgb(${r}, ${g}, ${b})`;
      chip.style.color = 0.3 * r + 0.6 * g + 0.1 * b > 120 ? "#000" : "#fff";
    }
    chip.textContent = text;
    chip.dataset.index = index;
    chip.tabIndex = index === stop ? 0 : -1;
    chip.setAttribute("role", data.pick ? "button" : "img");
    chip.setAttribute("aria-label", `${text}, ${data.tips[index].replaceAll("\n", ", ")}`);
    list.append(chip, document.createElement(breaks.has(index) ? "br" : "wbr"));
  });
  root.append(list, tip);

  function show(chip) {
    const words = data.tips[Number(chip.dataset.index)];
    tip.textContent = words;
    tip.classList.toggle("shown", words !== "");
    const edge = root.clientWidth - tip.offsetWidth, below = chip.offsetTop + chip.offsetHeight + 4;
    tip.style.left = `${Math.max(0, Math.min(chip.offsetLeft, edge))}px`;
    const overflows = chip.getBoundingClientRect().bottom + tip.offsetHeight + 8 > window.innerHeight;
    tip.style.top = `${overflows ? chip.offsetTop - tip.offsetHeight - 4 : below}px`;
  }
  function chipOf(event) {
    return event.target instanceof Element ? event.target.closest("[data-index]") : null;
  }
  function pick(chip) {
    if (data.pick) setTriggerValue("picked", data.first + Number(chip.dataset.index));
  }
  function go(index) {
    const to = list.querySelector(`[data-index="${Math.max(0, Math.min(index, data.texts.length - 1))}"]`);
    list.querySelectorAll('[tabindex="0"]').forEach((chip) => { chip.tabIndex = -1; });
    to.tabIndex = 0;
    to.focus();
  }
  list.onmouseover = (event) => { const chip = chipOf(event); if (chip) show(chip); };
  list.onmouseleave = () => tip.classList.remove("shown");

  list.addEventListener("focusin", (event) => { const chip = chipOf(event); if (chip) show(chip); });
  list.addEventListener("focusout", () => tip.classList.remove("shown"));
  list.onclick = (event) => { const chip = chipOf(event); if (chip) { go(Number(chip.dataset.index)); pick(chip); } };
  list.onkeydown = (event) => {
    const chip = chipOf(event);
    if (!chip) return;
    const at = Number(chip.dataset.index), last = data.texts.length - 1;
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: last }[event.key];
    if (to !== undefined) { go(to); event.preventDefault(); }
    if (event.key === "Enter" || event.key === " ") { pick(chip); event.preventDefault(); }
    if (event.key === "Escape") tip.classList.remove("shown");
  };
  if (focused >= 0 && data.texts.length) go(focused);
}
