// Attention matrices (attention_canvas.py): bytes come deflated in base64, hover and keys work here, a picked row goes
// back.

const VIRIDIS = [[68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142], [31, 158, 137],
  [53, 183, 121], [109, 205, 89], [180, 222, 44], [253, 231, 37]];
const TABLE = Array.from({ length: 256 }, (_, value) => {
  const place = Math.max(0, value - 1) / 254 * (VIRIDIS.length - 1), low = Math.min(Math.floor(place), VIRIDIS.length - 2);
  return VIRIDIS[low].map((from, i) => Math.round(from + (VIRIDIS[low + 1][i] - from) * (place - low)));
});

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// A T x T picture of the lower triangle; what cannot be seen stays transparent.
function picture(cells, size) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = size;
  const context = canvas.getContext("2d"), image = context.createImageData(size, size);
  for (let row = 0, at = 0; row < size; row += 1) {
    for (let column = 0; column <= row; column += 1, at += 1) {
      if (cells[at] === 0) continue;
      const [r, g, b] = TABLE[cells[at]];
      image.data.set([r, g, b, 255], 4 * (row * size + column));
    }
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

function add(parent, kind, className, words) {
  const element = document.createElement(kind);
  if (className) element.className = className;
  if (words !== undefined) element.textContent = words;
  parent.append(element);
  return element;
}

function percent(byte) {
  const weight = ((byte - 1) / 254) ** 2 * 100;
  return weight >= 0.5 ? `${Math.round(weight)} %` : "less than 0.5 %";
}

function legend(root) {
  const line = add(root, "div", "scale");
  add(line, "span", "", "0 %");
  const stops = VIRIDIS.map((c, i) => `rgb(${c}) ${100 * i / (VIRIDIS.length - 1)}%`);
  add(line, "span", "bar").style.background = `linear-gradient(90deg, ${stops})`;
  add(line, "span", "", "100 %");
  add(line, "span", "", "Finer where weights are small. Empty: it cannot look there.");
}

function drawMatrix(root, data, cells, pick) {
  const { size, texts } = data, small = picture(cells, size);
  const at = (row, column) => cells[row * (row + 1) / 2 + column];
  const width = Math.max(260, Math.min(root.clientWidth || 640, 1000)), narrow = width < 520;
  const top = 40, right = 46, names = narrow ? 74 : 118;
  const named = (width - names - right) / size >= 11, left = named ? names : 40;  // no room for names: numbers alone
  const cell = Math.max(1, Math.min(28, (width - left - right) / size)), side = cell * size;
  const bottom = named ? 74 : 18, ratio = window.devicePixelRatio || 1;
  const every = named ? 1 : Math.ceil(size / 12);
  const holder = add(root, "div", "scroll"), canvas = add(holder, "canvas");
  canvas.width = Math.round((left + side + right) * ratio);
  canvas.height = Math.round((top + side + bottom) * ratio);
  canvas.style.width = `${left + side + right}px`;
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-label", `${data.label}. Arrow keys move, Enter picks the row.`);
  const said = add(root, "p", "said", "");
  said.setAttribute("role", "status");
  legend(root);
  const context = canvas.getContext("2d"), style = getComputedStyle(root);
  const ink = style.color, accent = style.getPropertyValue("--st-primary-color").trim() || ink;
  let cursor = data.selected === null ? null : [data.selected, best(data.selected)];

  function best(row) {
    let column = 0;
    for (let j = 0; j <= row; j += 1) if (at(row, j) > at(row, column)) column = j;
    return column;
  }
  function label(index) {
    const words = named ? `${index} ${texts[index]}` : String(index), most = narrow ? 9 : 15;
    return words.length > most ? `${words.slice(0, most - 1)}…` : words;
  }
  function draw() {
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingEnabled = false;
    context.drawImage(small, left, top, side, side);
    context.fillStyle = ink;
    context.globalAlpha = 0.5;
    const highest = Math.max(...data.received, 1e-9);
    data.received.forEach((value, i) => {
      const height = 26 * value / highest;
      context.fillRect(left + i * cell, top - 4 - height, Math.max(cell - (cell > 3 ? 1 : 0), 0.5), height);
    });
    const widest = Math.max(...data.spread, 1);
    data.spread.forEach((value, i) => {
      context.fillRect(left + side + 4, top + i * cell, 38 * value / widest, Math.max(cell - (cell > 3 ? 1 : 0), 0.5));
    });
    context.globalAlpha = 1;
    context.font = `${narrow ? 10 : 11}px ${style.fontFamily}`;
    context.textBaseline = "middle";
    for (let i = 0; i < size; i += every) {
      context.textAlign = "right";
      context.fillText(label(i), left - 5, top + (i + 0.5) * cell);
      context.save();
      context.translate(left + (i + 0.5) * cell, top + side + 6);
      if (named) context.rotate(-Math.PI / 3);
      context.textAlign = named ? "right" : "center";
      context.fillText(label(i), 0, named ? 0 : 5);
      context.restore();
    }
    // The edge of what can be seen: a dashed line along the window, where it cuts something off.
    context.strokeStyle = ink;
    context.setLineDash([4, 3]);
    context.beginPath();
    let windowed = false;
    for (let row = 0; row < size; row += 1) {
      let first = 0;
      while (first < row && at(row, first) === 0) first += 1;
      if (first === 0) continue;
      windowed = true;
      context.moveTo(left + (first - 1) * cell, top + row * cell);
      context.lineTo(left + first * cell, top + row * cell);
      context.lineTo(left + first * cell, top + (row + 1) * cell);
    }
    if (windowed) context.stroke();
    context.setLineDash([]);
    if (data.selected !== null) frame(data.selected, null);
    if (cursor) frame(...cursor);
  }
  function frame(row, column) {
    context.strokeStyle = accent;
    context.lineWidth = 2;
    if (column === null) context.strokeRect(left - 1, top + row * cell, side + 2, Math.max(cell, 2));
    else context.strokeRect(left + column * cell - 1, top + row * cell - 1, Math.max(cell, 3) + 2, Math.max(cell, 3) + 2);
    context.lineWidth = 1;
  }
  function tell() {
    if (!cursor) {
      said.textContent = "Bars above: how much a token receives. Bars on the right: over how many tokens it spreads.";
      return;
    }
    const [row, column] = cursor, byte = at(row, column);
    said.textContent = byte === 0 ? `Token ${row} “${texts[row]}” cannot see token ${column}: it lies outside the window.`
      : `Token ${row} “${texts[row]}” looks at token ${column} “${texts[column]}” with ${percent(byte)}. `
        + `It spreads over ${data.spread[row]} tokens; token ${column} receives ${Math.round(1000 * data.received[column]) / 10} % on average.`;
  }
  function moved(event) {
    const box = canvas.getBoundingClientRect(), zoom = box.width / (left + side + right);
    const column = Math.floor(((event.clientX - box.left) / zoom - left) / cell);
    const row = Math.floor(((event.clientY - box.top) / zoom - top) / cell);
    if (row < 0 || row >= size || column >= size) return;
    cursor = [row, Math.max(0, Math.min(column, row))];
    draw();
    tell();
  }
  canvas.onmousemove = moved;
  canvas.onclick = (event) => { moved(event); if (cursor) pick(cursor[0]); };
  canvas.onkeydown = (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (step) {
      const [row, column] = cursor || [0, 0], next = Math.max(0, Math.min(size - 1, row + step[0]));
      cursor = [next, Math.max(0, Math.min(next, column + step[1]))];
      draw();
      tell();
    } else if ((event.key === "Enter" || event.key === " ") && cursor) pick(cursor[0]);
    else return;
    event.preventDefault();
  };
  draw();
  tell();
}

function drawGrid(root, data, cells, pick) {
  const each = data.size * (data.size + 1) / 2, list = add(root, "div", "grid"), off = new Set(data.off);
  list.setAttribute("role", "group");
  list.setAttribute("aria-label", data.label);
  let row = null;
  data.names.forEach((name, index) => {
    const layer = Math.floor(index / data.heads), head = index % data.heads;
    if (head === 0) {
      row = add(list, "div", "row");
      if (data.places) add(row, "span", "", `Layer ${layer}`);
    }
    const button = add(row, "button");
    button.type = "button";
    if (off.has(index)) button.classList.add("off");
    const place = data.places ? `Layer ${layer}, head ${head}, ` : "";
    button.setAttribute("aria-label", `${place}${off.has(index) ? "switched off, " : ""}${name}`);
    button.append(picture(cells.subarray(index * each, (index + 1) * each), data.size));
    const number = data.places ? `${layer}.${head} ` : "";
    add(button, "span", "name", `${number}${off.has(index) ? "(off) " : ""}${name}`);
    button.onclick = () => pick(index);
  });
  legend(root);
}

export default function (component) {
  const { data, parentElement, setTriggerValue } = component;
  let root = parentElement.querySelector(".attention");
  if (!root) root = add(parentElement, "div", "attention");
  const pick = (index) => setTriggerValue("picked", index);
  let width = 0, cells = null, gone = false;
  function draw() {
    const focused = root.querySelector("canvas:focus") !== null;
    width = root.clientWidth;
    root.replaceChildren();
    (data.kind === "grid" ? drawGrid : drawMatrix)(root, data, cells, pick);
    if (focused) root.querySelector("canvas")?.focus();
  }
  const observer = new ResizeObserver(() => {
    if (cells && data.kind === "matrix" && Math.abs(root.clientWidth - width) > 8) draw();
  });
  unpacked(data.cells).then((bytes) => {
    if (gone || root.nanochatObserver !== observer) return;  // newer data came, or the page went
    cells = bytes;
    draw();
    observer.observe(root);
  });
  root.nanochatObserver?.disconnect();
  root.nanochatObserver = observer;
  return () => {
    gone = true;
    observer.disconnect();
  };
}
