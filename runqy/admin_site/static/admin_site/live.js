// Keeps parts of a page up to date: elements with data-live (an interval in ms) and hx-get. Stops in a hidden tab, when
// paused, and while text of the part is selected. Keeps the selection of rows, the focus and what is unfolded; charts
// are drawn again with new values.
(() => {
  const parts = new Set();
  const storageKey = "runqy.live";
  let paused = localStorage.getItem(storageKey) === "paused";

  const timeFormat = (() => {
    try {
      return new Intl.DateTimeFormat("sv-SE", { timeStyle: "medium", timeZone: document.querySelector("[data-time-zone]").dataset.timeZone });
    } catch { // a zone that the browser does not know
      return new Intl.DateTimeFormat("sv-SE", { timeStyle: "long", timeZone: "UTC" });
    }
  })();
  const now = () => timeFormat.format(new Date());
  const show = (text) => {
    for (const status of document.querySelectorAll("[data-live-status]")) {
      if (status.textContent !== text) status.textContent = text;
    }
  };

  const hasSelectedText = (part) => {
    const selection = getSelection();
    return !selection.isCollapsed && part.contains(selection.anchorNode);
  };

  const refresh = (part) => {
    if (paused || document.hidden || part.dataset.liveBusy || hasSelectedText(part)) return;
    part.dataset.liveBusy = "1";
    htmx.trigger(part, "refresh");
  };

  const showState = () => {
    for (const toggle of document.querySelectorAll("[data-live-toggle]")) {
      toggle.setAttribute("aria-pressed", String(!paused));
      toggle.textContent = paused ? "Resume live updates" : "Pause live updates";
    }
    if (paused) show("Paused");
  };

  // Starts with the parts that a page has, or that an update has added, and ends with those that it has replaced.
  const findParts = () => {
    for (const part of document.querySelectorAll("[data-live]")) {
      if (parts.has(part)) continue;
      parts.add(part);
      const timer = setInterval(() => {
        if (part.isConnected && part.matches("[data-live]")) return refresh(part);
        clearInterval(timer);
        parts.delete(part);
      }, Number(part.dataset.live));
    }
  };

  document.addEventListener("click", (event) => {
    if (!event.target.closest("[data-live-toggle]")) return;
    paused = !paused;
    localStorage.setItem(storageKey, paused ? "paused" : "live");
    showState();
    if (!paused) parts.forEach(refresh);
  });
  document.addEventListener("visibilitychange", () => parts.forEach(refresh));

  const partOf = (event) => (parts.has(event.detail.elt) ? event.detail.elt : null);
  let kept = null;

  const selectorOf = (element) => {
    if (element.id) return `#${CSS.escape(element.id)}`;
    const names = ["href", "name", "value"].filter((name) => element.hasAttribute(name));
    return names.map((name) => `[${name}="${CSS.escape(element.getAttribute(name))}"]`).join("");
  };
  const scrollsIn = (element) => (
    [...element.querySelectorAll("[tabindex]")].map((box) => [box, box.scrollTop, box.scrollLeft])
  );

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
    if (part.matches("[data-live-changelist]")) {
      event.detail.shouldSwap = false;
      updateChangelist(xhr.responseText);
      return;
    }
    const focused = part.contains(document.activeElement) ? document.activeElement : null;
    kept = {
      checked: [...part.querySelectorAll("input[type=checkbox]:checked")].map((box) => `${box.name}=${box.value}`),
      focused,
      focus: focused && selectorOf(focused),
      unfolded: [...part.querySelectorAll("details[id][open]")].map((details) => [details, scrollsIn(details)]),
    };
  });

  document.body.addEventListener("htmx:afterSwap", (event) => {
    const part = partOf(event);
    if (!part || !kept) return;
    for (const box of part.querySelectorAll("input[type=checkbox]")) {
      if (kept.checked.includes(`${box.name}=${box.value}`)) box.checked = true;
    }
    for (const [details, scrolls] of kept.unfolded) {
      document.getElementById(details.id)?.replaceWith(details);
      for (const [box, top, left] of scrolls) box.scrollTo(left, top);
    }
    const focused = part.contains(kept.focused) ? kept.focused : kept.focus && part.querySelector(kept.focus);
    focused?.focus({ preventScroll: true });
    if (part.matches("[data-live-until]") && part.querySelector(part.dataset.liveUntil)) delete part.dataset.live;
    kept = null;
    findParts();
    showState();
    part.dispatchEvent(new CustomEvent("live:updated", { bubbles: true }));
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

  // Of a list with the same rows, cells without fields change. Else the rows are replaced. While all rows of all pages are
  // selected none come or go.
  const updateChangelist = (html) => {
    const page = new DOMParser().parseFromString(html, "text/html");
    const [list, fresh] = [document, page].map((each) => each.getElementById("result_list"));
    const [pages, freshPages] = [document, page].map((each) => each.querySelector(".list-pagination"));
    if (pages && freshPages?.innerHTML !== pages.innerHTML) pages.replaceChildren(...freshPages?.childNodes ?? []);
    const [form, freshForm] = [document, page].map((each) => each.getElementById("changelist-form"));
    if (!fresh || !list) {
      if (list !== fresh) form.replaceChildren(...freshForm.childNodes);
      return;
    }
    const keyOf = (row) => row.querySelector("input.action-select")?.value
      ?? row.querySelector("a[href]")?.getAttribute("href");
    const rowsOf = (table) => new Map([...table.tBodies].map((row) => [keyOf(row), row]));
    const [rows, others] = [rowsOf(list), rowsOf(fresh)];
    const isSame = [...rows.keys()].join("\n") === [...others.keys()].join("\n");
    if (!isSame && !form.querySelector("input.select-across[value='1']")) {
      replaceRows(list, fresh);
      return;
    }
    for (const [key, row] of rows) {
      const cells = others.get(key)?.querySelectorAll("td, th") ?? [];
      row.querySelectorAll("td, th").forEach((cell, index) => {
        const other = cells[index];
        if (!other || other.innerHTML === cell.innerHTML || cell.querySelector("input, form")) return;
        if (!cell.contains(document.activeElement)) cell.replaceChildren(...other.childNodes);
      });
    }
  };

  const replaceRows = (list, fresh) => {
    const selected = [...list.querySelectorAll("input.action-select:checked")].map((box) => box.value);
    const focus = list.contains(document.activeElement) && selectorOf(document.activeElement);
    for (const row of [...list.tBodies]) row.remove();
    list.append(...fresh.tBodies);
    for (const box of boxesOf(list)) box.checked = selected.includes(box.value);
    showSelection(list.closest(".result-list-wrapper"));
    if (focus) list.querySelector(focus)?.focus({ preventScroll: true });
  };

  // The theme's version of Django's script of actions knows only the checkboxes that a page was loaded with. After it, this
  // selects those that a list has by now: the document listens, so that nothing is added when rows are replaced.
  const boxesOf = (list) => [...list.querySelectorAll("tr input.action-select")];
  let lastBox = null;

  const showSelection = (list) => {
    const [boxes, counter, all] = [boxesOf(list), list.querySelector(".action-counter"), list.querySelector(".action-toggle")];
    if (!counter || !all) return;
    for (const box of boxes) box.closest("tr").classList.toggle("selected", box.checked);
    const count = boxes.filter((box) => box.checked).length;
    counter.dataset.actionsIcnt = boxes.length;
    counter.textContent = `${count} of ${boxes.length} selected`;
    all.checked = count > 0 && count === boxes.length;
    selectAcross(list, false);
  };

  // All rows of all pages, or only those checked.
  const selectAcross = (list, isAcross) => {
    const areAllChecked = list.querySelector(".action-toggle").checked;
    const shown = { all: isAcross, clear: isAcross, question: areAllChecked && !isAcross, "action-counter": !isAcross };
    for (const [name, isShown] of Object.entries(shown)) {
      list.querySelector(`div.actions span.${name}`)?.classList.toggle("hidden", !isShown);
    }
    for (const input of list.querySelectorAll("div.actions input.select-across")) {
      input.value = isAcross ? 1 : 0;
      input.dispatchEvent(new Event("input"));
    }
  };

  document.addEventListener("click", (event) => {
    const { target } = event;
    const list = document.querySelector("[data-live-changelist]") && target.closest(".result-list-wrapper");
    if (!list) return;
    const boxes = boxesOf(list);
    if (target.matches(".action-toggle")) {
      for (const box of boxes) box.checked = target.checked;
    } else if (target.matches("input.action-select")) {
      const [from, to] = [boxes.indexOf(lastBox), boxes.indexOf(target)].sort((one, other) => one - other);
      if (event.shiftKey && from >= 0) for (const box of boxes.slice(from, to)) box.checked = target.checked;
      lastBox = target;
    } else if (target.matches("span.question a")) {
      event.preventDefault();
      return selectAcross(list, true);
    } else if (target.matches("span.clear a")) {
      event.preventDefault();
      for (const box of boxes) box.checked = false;
    } else return;
    showSelection(list);
  });
  window.addEventListener("load", () => window.addEventListener("pageshow", () => { // after the theme's
    const list = document.querySelector("[data-live-changelist]") && document.querySelector(".result-list-wrapper");
    if (list) showSelection(list);
  }));

  const redraw = (part, html) => {
    const fresh = new DOMParser().parseFromString(html, "text/html");
    for (const figure of part.querySelectorAll("figure[id]")) {
      const other = fresh.getElementById(figure.id);
      if (!other) continue;
      const chart = Chart.getChart(figure.querySelector("canvas.chart"));
      const { value, options } = other.querySelector("canvas.chart").dataset;
      const data = JSON.parse(value);
      chart.data.labels = data.labels;
      chart.data.marks = data.marks;
      chart.data.utc = data.utc;
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
      figure.classList.toggle("is-empty", other.classList.contains("is-empty"));
      drawing.setAttribute("aria-label", other.querySelector("[role=img]").getAttribute("aria-label"));
    }
    const [releases, freshReleases] = [document, fresh].map((page) => page.getElementById("chart-releases"));
    if (releases && freshReleases) releases.replaceChildren(...freshReleases.childNodes);
  };

  findParts();
  showState();
  if (!paused) show("Live");
})();

// A line for each release, with its number; numbers that would overlap are one label, such as 5–8.
const releaseMarks = {
  id: "releaseMarks",
  afterDatasetsDraw: ({ ctx, chartArea, data, scales }) => {
    const style = getComputedStyle(document.documentElement);
    const labels = [];
    ctx.save();
    ctx.font = "600 11px sans-serif";
    ctx.textAlign = "center";
    ctx.textBaseline = "middle";
    for (const { index, number, color } of data.marks ?? []) {
      const x = scales.x.getPixelForValue(index);
      const fill = style.getPropertyValue(`--chart-${color}`);
      ctx.strokeStyle = fill;
      ctx.setLineDash([2, 2]);
      ctx.beginPath();
      ctx.moveTo(x, chartArea.top);
      ctx.lineTo(x, chartArea.bottom);
      ctx.stroke();
      const last = labels.at(-1);
      if (last && x - last.end < 22) {
        Object.assign(last, { end: x, numbers: [...last.numbers, number], fill: last.fill === fill ? fill : "" });
      } else labels.push({ start: x, end: x, numbers: [number], fill });
    }
    for (const { start, end, numbers, fill } of labels) {
      const [first, last] = [Math.min(...numbers), Math.max(...numbers)];
      const text = first === last ? `${first}` : `${first}–${last}`;
      const width = ctx.measureText(text).width + 8;
      const middle = Math.min(Math.max((start + end) / 2, chartArea.left + width / 2), chartArea.right - width / 2);
      ctx.fillStyle = fill || style.getPropertyValue("--chart-other");
      ctx.fillRect(middle - width / 2, chartArea.top, width, 15);
      ctx.fillStyle = style.getPropertyValue("--chart-mark-text");
      ctx.fillText(text, middle, chartArea.top + 8);
    }
    ctx.restore();
  },
};

// The theme draws charts when the page has loaded; the colours of text, grid and lines follow light and dark. The axis
// of time names round times, and the legend has lines with the dashes of the chart's.
window.addEventListener("load", () => {
  const canvases = [...document.querySelectorAll("canvas.chart")];
  if (!canvases.length) return;
  Chart.register(releaseMarks);
  const setUp = (chart, ticks) => {
    // An interval may be narrower than a pointer.
    const isNear = ([item], index) => item && Math.abs(chart.scales.x.getPixelForValue(index) - item.element.x) < 8;
    const findMarks = (items) => (chart.data.marks ?? []).filter(({ index }) => isNear(items, index)).slice(-5);
    chart.options.plugins.tooltip = {
      callbacks: {
        title: ([{ label, dataIndex }]) => [label, chart.data.utc[dataIndex]],
        footer: (items) => findMarks(items).map(({ text }) => text),
      },
    };
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
