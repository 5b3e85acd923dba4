"use strict";
for (const figure of document.querySelectorAll("figure.curve")) {
  const svg = figure.querySelector("svg");
  const cursor = svg.querySelector(".cursor");
  const title = figure.querySelector("figcaption").textContent;
  const series = [...svg.querySelectorAll(".series")].map((element) => ({
    element,
    name: element.dataset.name,
    points: JSON.parse(element.dataset.points),
    visible: true,
  }));
  const steps = [...new Set(series.flatMap((s) => s.points.map((p) => p[0])))].sort((a, b) => a - b);
  const controls = document.createElement("div");
  controls.className = "controls";
  const output = document.createElement("output");
  const slider = Object.assign(document.createElement("input"), {
    type: "range", min: 0, max: steps.length - 1, value: steps.length - 1,
  });
  slider.setAttribute("aria-label", "Step of " + title);

  function format(value) {
    return String(Number(value.toPrecision(4)));
  }
  function show() {
    const step = steps[slider.value];
    const texts = [];
    let x = null;
    for (const s of series) {
      const point = s.visible && s.points.find((p) => p[0] === step);
      if (!point) continue;
      x = point[2];
      texts.push(series.length > 1 ? s.name + " " + format(point[1]) : format(point[1]));
    }
    output.textContent = "Step " + step.toLocaleString("en") + ": " + (texts.join(", ") || "–");
    slider.setAttribute("aria-valuetext", output.textContent);
    cursor.setAttribute("visibility", x === null ? "hidden" : "visible");
    if (x !== null) { cursor.setAttribute("x1", x); cursor.setAttribute("x2", x); }
  }
  if (series.length > 1) {
    for (const s of series) {
      const label = document.createElement("label");
      const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: true });
      box.addEventListener("change", () => {
        s.visible = box.checked;
        s.element.style.display = box.checked ? "" : "none";
        show();
      });
      label.append(box, " " + s.name);
      controls.append(label);
    }
  }
  slider.addEventListener("input", show);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    let nearest = null;
    for (const s of series) {
      for (const p of s.visible ? s.points : []) {
        if (nearest === null || Math.abs(p[2] - x) < Math.abs(nearest[2] - x)) nearest = p;
      }
    }
    if (nearest !== null) { slider.value = steps.indexOf(nearest[0]); show(); }
  });
  if (steps.length > 1) controls.append(slider);
  figure.append(controls, output);
  show();
  cursor.setAttribute("visibility", "hidden");
}
