// Keeps parts of a page up to date: elements with data-live (an interval in ms) and hx-get. Stops in a hidden tab and
// when paused. Keeps the selection, the focus and what is unfolded; charts are drawn again with new values.
(() => {
  const parts = [...document.querySelectorAll("[data-live]")];
  if (!parts.length) return;
  const toggle = document.querySelector("[data-live-toggle]");
  const status = document.querySelector("[data-live-status]");
  const storageKey = "runqy.live";
  let paused = localStorage.getItem(storageKey) === "paused";

  const now = () => `${new Date().toISOString().slice(11, 19)} UTC`;
  const show = (text) => { if (status && status.textContent !== text) status.textContent = text; };

  const refresh = (part) => {
    if (paused || document.hidden || part.dataset.liveBusy) return;
    part.dataset.liveBusy = "1";
    htmx.trigger(part, "refresh");
  };

  const update = () => {
    if (toggle) {
      toggle.setAttribute("aria-pressed", String(!paused));
      toggle.textContent = paused ? "Resume live updates" : "Pause live updates";
    }
    if (paused) show("Paused");
  };

  toggle?.addEventListener("click", () => {
    paused = !paused;
    localStorage.setItem(storageKey, paused ? "paused" : "live");
    update();
    if (!paused) parts.forEach(refresh);
  });
  document.addEventListener("visibilitychange", () => parts.forEach(refresh));
  for (const part of parts) setInterval(() => refresh(part), Number(part.dataset.live));

  const partOf = (event) => parts.find((part) => part === event.detail.elt);
  let kept = null;

  document.body.addEventListener("htmx:beforeSwap", (event) => {
    const part = partOf(event);
    if (!part) return;
    const { xhr } = event.detail;
    if (paused || xhr.status !== 200 || !event.detail.shouldSwap) {
      event.detail.shouldSwap = false;
      return;
    }
    if (part.querySelector("canvas.chart")) {
      event.detail.shouldSwap = false;
      redraw(part, xhr.responseText);
      return;
    }
    const focused = part.contains(document.activeElement) ? document.activeElement : null;
    kept = {
      checked: [...part.querySelectorAll("input[type=checkbox]:checked")].map((box) => `${box.name}=${box.value}`),
      focus: focused && (focused.id ? `#${CSS.escape(focused.id)}` : focused.getAttribute("href") &&
        `a[href="${CSS.escape(focused.getAttribute("href"))}"]`),
    };
  });

  document.body.addEventListener("htmx:afterSwap", (event) => {
    const part = partOf(event);
    if (!part || !kept) return;
    for (const box of part.querySelectorAll("input[type=checkbox]")) {
      if (kept.checked.includes(`${box.name}=${box.value}`)) box.checked = true;
    }
    if (kept.focus) part.querySelector(kept.focus)?.focus({ preventScroll: true });
    part.dispatchEvent(new CustomEvent("live:updated", { bubbles: true }));
    kept = null;
  });

  document.body.addEventListener("htmx:afterRequest", (event) => {
    const part = partOf(event);
    if (!part) return;
    delete part.dataset.liveBusy;
    if (paused) return;
    if (event.detail.successful) {
      part.dataset.liveAt = now();
      show(`Live, updated ${part.dataset.liveAt}`);
    } else {
      show(`Not updated since ${part.dataset.liveAt ?? "the page was loaded"}. Trying again …`);
    }
  });

  const redraw = (part, html) => {
    const fresh = new DOMParser().parseFromString(html, "text/html");
    for (const figure of part.querySelectorAll("figure[id]")) {
      const other = fresh.getElementById(figure.id);
      if (!other) continue;
      const chart = Chart.getChart(figure.querySelector("canvas.chart"));
      const { value, options } = other.querySelector("canvas.chart").dataset;
      const data = JSON.parse(value);
      chart.data.labels = data.labels;
      data.datasets.forEach((dataset, index) => {
        chart.data.datasets[index].data = dataset.data;
        chart.data.datasets[index].pointRadius = dataset.pointRadius;
      });
      chart.options.scales.y.title.text = JSON.parse(options).scales.y.title.text;
      chart.update("none");
      for (const name of ["[data-chart-latest]", "caption", "tbody"]) {
        const [old, replacement] = [figure.querySelector(name), other.querySelector(name)];
        if (old && replacement) old.replaceChildren(...replacement.childNodes);
      }
      const drawing = figure.querySelector("[role=img]");
      drawing.setAttribute("aria-label", other.querySelector("[role=img]").getAttribute("aria-label"));
    }
  };

  update();
  if (!paused) show("Live");
})();

// The theme draws charts when the page has loaded; the colours of text, grid and lines follow light and dark. The axis
// of time names round times, and the legend has lines with the dashes of the chart's.
window.addEventListener("load", () => {
  const canvases = [...document.querySelectorAll("canvas.chart")];
  if (!canvases.length) return;
  const setUp = (chart, ticks) => {
    chart.options.scales.x.afterBuildTicks = (axis) => {
      axis.ticks = axis.ticks.filter(({ value }) => ticks.test(axis.getLabelForValue(value)));
    };
    const { labels } = chart.options.plugins.legend;
    labels.generateLabels = () => Chart.defaults.plugins.legend.labels.generateLabels(chart).map((label) => (
      { ...label, pointStyle: "line", lineWidth: 2, lineDash: chart.data.datasets[label.datasetIndex].borderDash }
    ));
  };
  const paint = () => {
    const style = getComputedStyle(document.documentElement);
    const read = (name) => style.getPropertyValue(name).trim();
    for (const canvas of canvases) {
      const chart = Chart.getChart(canvas);
      if (!chart) continue;
      const source = JSON.parse(canvas.dataset.value);
      chart.data.datasets.forEach((dataset, index) => {
        const color = read(source.datasets[index].borderColor.slice(4, -1));
        dataset.borderColor = dataset.backgroundColor = color;
      });
      for (const scale of Object.values(chart.options.scales)) {
        scale.ticks.color = read("--chart-text");
        scale.grid.color = read("--chart-grid");
        if (scale.title) scale.title.color = read("--chart-text");
      }
      chart.options.plugins.legend.labels.color = read("--chart-text");
      chart.update("none");
    }
  };
  const paintWhenDrawn = () => {
    if (canvases.every((canvas) => Chart.getChart(canvas))) {
      for (const canvas of canvases) {
        setUp(Chart.getChart(canvas), new RegExp(canvas.closest("[data-ticks]").dataset.ticks));
      }
      paint();
    } else requestAnimationFrame(paintWhenDrawn);
  };
  paintWhenDrawn();
  new MutationObserver(paint).observe(document.documentElement, { attributes: true, attributeFilter: ["class"] });
});
