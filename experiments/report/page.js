// Draws the learning curves of the page from its JSON data, and reacts to its controls.
const { panels: PANELS, axes: AXES } = JSON.parse(document.getElementById("data").textContent);
const GRAY = "#6b7580";
const control = (name) => document.getElementById(name);
const hiddenNames = new Set(PANELS.flatMap((panel) => panel.references).filter((r) => !r.openLoop).map((r) => r.name));

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const transpose = (rows) => rows[0].map((_, i) => rows.map((row) => row[i]));

function std(values) {
  const center = mean(values);
  return values.length < 2 ? 0 : Math.sqrt(values.reduce((sum, value) => sum + (value - center) ** 2, 0) / (values.length - 1));
}

// The mean of `window` points around each; near an end, of as many as there are on both sides.
function smooth(values, window) {
  return values.map((_, i) => {
    const side = Math.min((window - 1) / 2, i, values.length - 1 - i);
    return mean(values.slice(i - side, i + side + 1));
  });
}

// Index of a curve's first point: what it shares with its trunk is drawn once, and by the trunk unless that is hidden.
const firstPoint = (curve) => (curve.trunk === null || hiddenNames.has(curve.trunk.arm) ? 0 : curve.trunk.first);

function curveTraces(curve, field, shown, window) {
  const first = firstPoint(curve);
  // A score that is not available leaves a gap.
  const seeds = curve.scores.map((scores) => smooth(scores.map((score) => score ?? NaN), window).slice(first));
  const steps = curve.x[field].map((values) => values.slice(first));
  const x = transpose(steps).map(mean), points = transpose(seeds);
  const center = points.map(mean), spread = points.map(std);
  const line = { color: curve.color, dash: curve.dash };
  const traces = [];
  if (shown !== "seeds") {
    const bound = (sign) => center.map((value, i) => value + sign * spread[i]);
    traces.push(
      { x, y: bound(-1), mode: "lines", line: { width: 0 }, hoverinfo: "skip" },
      { x, y: bound(1), mode: "lines", line: { width: 0 }, fill: "tonexty", fillcolor: curve.color + "33", hoverinfo: "skip" },
      { x, y: center, mode: "lines+markers", name: curve.arm, line, marker: { size: 5, symbol: curve.marker } },
    );
  }
  if (shown !== "mean") {
    const alone = shown === "seeds";
    curve.seeds.forEach((seed, s) => traces.push({
      x: steps[s], y: seeds[s], mode: alone ? "lines+markers" : "lines", name: `${curve.arm}, seed ${seed}`,
      opacity: alone ? 0.85 : 0.6, line: { ...line, width: alone ? 1.5 : 1 }, marker: { size: 4, symbol: curve.marker },
    }));
  }
  return traces;
}

function referenceTrace(reference, first, last) {
  return {
    x: [first, last], y: [reference.mean, reference.mean], mode: "lines", name: reference.name,
    line: { color: GRAY, width: 1.3, dash: reference.dash },
    hovertemplate: "%{y:,.1f}" + (reference.std === null ? "" : " ± " + reference.std),
  };
}

function traces(panel, field) {
  const all = panel.curves.flatMap((curve) => curve.x[field].flat());
  const visible = (each) => !hiddenNames.has(each.arm ?? each.name);
  return [
    ...panel.curves.filter(visible).flatMap((curve) => curveTraces(curve, field, control("shown").value, Number(control("smoothing").value))),
    ...panel.references.filter(visible).map((reference) => referenceTrace(reference, Math.min(...all), Math.max(...all))),
  ].map((trace) => ({ ...trace, showlegend: false }));
}

function layout(panel, field) {
  const freezes = panel.curves.filter((curve) => curve.freeze !== null && !hiddenNames.has(curve.arm)).map((curve) => ({
    type: "line", yref: "paper", y0: 0, y1: 1, x0: curve.freeze[field], x1: curve.freeze[field],
    line: { color: curve.color, width: 1, dash: "dot" },
  }));
  return {
    title: { text: panel.task, font: { size: 15 } }, margin: { l: 60, r: 12, t: 36, b: 46 }, shapes: freezes,
    xaxis: { title: { text: AXES[field] }, rangemode: "tozero" }, yaxis: { title: { text: "return" } },
  };
}

function draw() {
  const field = control("axis").value;
  PANELS.forEach((panel, i) => Plotly.react("plot" + i, traces(panel, field), layout(panel, field), { responsive: true, displayModeBar: false }));
}

function swatch({ color, dash, marker }) {
  const pattern = { solid: "", dash: "6 3", dot: "2 3", dashdot: "7 3 2 3" }[dash];
  const symbol = {
    circle: "M14 6a4 4 0 1 0 8 0a4 4 0 1 0-8 0", square: "M14.5 2.5h7v7h-7z", diamond: "M18 1.5l4.5 4.5-4.5 4.5-4.5-4.5z",
    "triangle-up": "M18 1.5l4.5 8h-9z", "triangle-down": "M18 10.5l-4.5-8h9z",
  }[marker] ?? "";
  return `<svg width="36" height="12" aria-hidden="true"><path d="M0 6H36" stroke="${color}" stroke-width="2.5" stroke-dasharray="${pattern}"/><path d="${symbol}" fill="${color}"/></svg>`;
}

function setVisible(name, visible) {
  if (visible) hiddenNames.delete(name); else hiddenNames.add(name);
}

// A button for each arm and each open-loop policy, which shows and hides its lines in all panels.
const entries = new Map([
  ...PANELS.flatMap((panel) => panel.curves.map((curve) => [curve.arm, curve])),
  ...PANELS.flatMap((panel) => panel.references.filter((r) => r.openLoop).map((r) => [r.name, { color: GRAY, dash: r.dash }])),
]);
const buttons = [...entries].map(([name, style]) => {
  const button = document.createElement("button");
  button.type = "button";
  button.innerHTML = swatch(style);
  button.append(Object.assign(document.createElement("span"), { textContent: name }));
  button.addEventListener("click", () => { setVisible(name, hiddenNames.has(name)); update(); });
  control("legend").append(button);
  return [name, button];
});
for (const [text, visible] of [["Show all", true], ["Hide all", false]]) {
  const button = Object.assign(document.createElement("button"), { type: "button", className: "all", textContent: text });
  button.addEventListener("click", () => { buttons.forEach(([name]) => setVisible(name, visible)); update(); });
  control("legend").append(button);
}

function update() {
  buttons.forEach(([name, button]) => button.setAttribute("aria-pressed", String(!hiddenNames.has(name))));
  draw();
}

document.querySelectorAll("#published input").forEach((box) => box.addEventListener("change", () => { setVisible(box.value, box.checked); draw(); }));
["axis", "shown", "smoothing"].forEach((name) => control(name).addEventListener("change", draw));
update();
