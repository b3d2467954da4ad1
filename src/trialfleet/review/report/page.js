"use strict";
// Draws the figures: those in sight first, the others when there is time, all of them before the page is printed.
// Plotly, which takes a browser a second or more to read, comes when the text of the page is to be seen.
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const places = [...document.querySelectorAll(".plot")];
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const waiting = new Set(places);

  // What all figures have in common, in the colours of the page.
  function common(place) {
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name).trim();
    const axis = { gridcolor: color("--line"), linecolor: color("--line"), zeroline: false, automargin: true, title: { standoff: 8 } };
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: color("--text"), family: getComputedStyle(document.body).fontFamily, size: 12 },
      margin: { l: 44, r: 10, t: 10, b: 36 }, hovermode: "closest",
      hoverlabel: { bgcolor: color("--card"), bordercolor: color("--line"), font: { color: color("--text") }, align: "left" },
      legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom", font: { size: 11 } },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: color("--soft"), activecolor: color("--text") },
      dragmode: place.classList.contains("tools") ? "zoom" : false, // a finger scrolls the page
      axis,
    };
  }

  function merged(base, own) {
    const found = { ...base };
    for (const [key, value] of Object.entries(own)) {
      const both = value && typeof value === "object" && !Array.isArray(value) && found[key] && typeof found[key] === "object";
      found[key] = both ? merged(found[key], value) : value;
    }
    return found;
  }

  function layout(place, figure) {
    const { axis, ...base } = common(place);
    const own = { ...figure.layout };
    for (const key of Object.keys(own)) if (/^[xy]axis\d*$/.test(key)) own[key] = merged(axis, own[key]);
    for (const note of own.annotations || []) note.bgcolor = getComputedStyle(document.documentElement).getPropertyValue("--back").trim();
    return merged(base, { ...own, height: figure.height, autosize: true });
  }

  function load() {
    if (window.Plotly) return;
    const script = document.createElement("script");
    script.textContent = document.getElementById("plotly").textContent;
    document.head.append(script); // it has run by now
  }

  function draw(place) {
    if (!waiting.delete(place)) return;
    load();
    const figure = figures[place.dataset.figure];
    const tools = place.classList.contains("tools");
    const config = { responsive: true, displaylogo: false, displayModeBar: tools ? "hover" : false,
      modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"] };
    Plotly.newPlot(place, figure.data, layout(place, figure), config);
    document.documentElement.dataset.drawn = places.length - waiting.size;
    if (!waiting.size) document.dispatchEvent(new Event("drawn"));
  }

  // Calls when what there is has been shown, or soon: a page in the background is not.
  function shown(then) {
    let called = false;
    const once = () => { if (!called) { called = true; then(); } };
    requestAnimationFrame(() => setTimeout(once, 0));
    setTimeout(once, 300);
  }

  function begin() {
    const wide = places.filter((place) => place.clientWidth >= 600);
    wide.forEach((place) => place.classList.add("tools")); // before any is drawn: nothing moves later
    const inSight = places.filter((place) => place.getBoundingClientRect().top < innerHeight);
    inSight.forEach(draw);
    document.dispatchEvent(new Event("opened"));
    const watcher = new IntersectionObserver((entries) => {
      for (const entry of entries) if (entry.isIntersecting) { watcher.unobserve(entry.target); draw(entry.target); }
    }, { rootMargin: "400px" });
    const next = () => { const [place] = waiting; if (place) { draw(place); setTimeout(next, 0); } };
    const others = () => { waiting.forEach((place) => watcher.observe(place)); next(); };
    shown(others);
  }

  shown(begin);
  addEventListener("beforeprint", () => [...waiting].forEach(draw));
  dark.addEventListener("change", () => {
    for (const place of places) if (!waiting.has(place)) Plotly.relayout(place, layout(place, figures[place.dataset.figure]));
  });
})();
