"use strict";
(() => {
  const data = JSON.parse(document.getElementById("trials").textContent);
  const place = Object.fromEntries(data.columns.map((name, at) => [name, at]));
  const head = document.querySelector("#table thead");
  const body = document.querySelector("#table tbody");
  const count = document.getElementById("count");
  const more = document.getElementById("more");
  const SHOWN = 200;
  let shown = SHOWN, rows = data.rows, sorted = null, descending = false, wanted = {};

  const text = (value) => value === null ? "" : String(value);
  const element = (name, content, attributes = {}) => {
    const made = document.createElement(name);
    if (content !== undefined) made.textContent = content;
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };

  // ">0.1", "<= 1e-3", "= 5", or a part of the text.
  const test = (filter) => {
    const found = filter.trim().match(/^(<=|>=|<|>|=)\s*(.+)$/);
    if (!found) {
      const part = filter.trim().toLowerCase();
      return (value) => text(value).toLowerCase().includes(part);
    }
    const [, sign, word] = found, bound = Number(word);
    if (sign === "=" && word === "null") return (value) => value === null;
    // The table has numbers to so many digits; a figure may ask for more of them.
    const rounded = Number(bound.toPrecision(data.digits));
    if (sign === "=")
      return (value) => value !== null && (text(value) === word || Number(value) === rounded);
    return (value) => value !== null && value !== "" && ({
      "<": value < bound, "<=": value <= bound, ">": value > bound, ">=": value >= bound,
    })[sign];
  };

  const compare = (a, b) => {
    if (a === null || b === null) return (a === null) - (b === null);
    if (typeof a === "number" && typeof b === "number") return a - b;
    return text(a) < text(b) ? -1 : text(a) > text(b) ? 1 : 0;
  };

  const show = () => {
    const tests = Object.entries(wanted).filter(([, filter]) => filter.trim())
      .map(([name, filter]) => [place[name], test(filter)]);
    rows = data.rows.filter((row) => tests.every(([at, holds]) => holds(row[at])));
    if (sorted !== null) {
      const at = place[sorted], sign = descending ? -1 : 1;
      rows.sort((a, b) => a[at] === null || b[at] === null
        ? compare(a[at], b[at]) : sign * compare(a[at], b[at]));
    }
    body.replaceChildren(...rows.slice(0, shown).map((row) => {
      const line = element("tr");
      for (const name of data.shown) {
        const cell = element("td");
        if (name === "trial_id") {
          const open = element("button", row[place[name]].slice(0, 8), { type: "button" });
          open.addEventListener("click", () => detail(row));
          cell.append(open);
        } else cell.textContent = text(row[place[name]]);
        line.append(cell);
      }
      return line;
    }));
    more.hidden = rows.length <= shown;
    const cut = more.hidden ? "" : `; the first ${shown} are shown`;
    const held = data.rows.length < data.of
      ? `; this page holds ${data.rows.length} of the run's ${data.of}, evenly chosen` : "";
    count.textContent = `${rows.length} of ${data.rows.length} trials${cut}${held}`;
  };
  more.addEventListener("click", () => { shown += SHOWN; show(); });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-trials]");
    if (button) window.showTrials(JSON.parse(button.dataset.trials));
  });

  const detail = (row) => {
    const where = document.getElementById("trial");
    const id = row[place.trial_id];
    const list = element("dl", undefined, { class: "columns" });
    for (const name of data.columns) {
      if (row[place[name]] === null) continue;
      const pair = element("div");
      pair.append(element("dt", name), element("dd", text(row[place[name]])));
      list.append(pair);
    }
    const again = element("pre", `gaunlearn verify ${data.run} --trial ${id}`);
    where.replaceChildren(
      element("h3", `Trial ${id}`), element("p", "To reproduce it alone, where the run's directory is (the specification at the end of this page makes one):"), again, list);
    where.scrollIntoView({ block: "nearest" });
    where.focus();
  };

  const names = element("tr"), filters = element("tr");
  for (const name of data.shown) {
    const cell = element("th", undefined, { scope: "col", title: data.meanings[name] || "" });
    const button = element("button", name, { type: "button" });
    button.addEventListener("click", () => {
      descending = sorted === name && !descending;
      sorted = name;
      for (const other of names.children) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", descending ? "descending" : "ascending");
      show();
    });
    cell.append(button);
    names.append(cell);
    const filter = element("th");
    const input = element("input", undefined, {
      type: "text", "aria-label": `filter ${name}`, placeholder: "filter", "data-column": name,
    });
    input.addEventListener("input", () => { wanted[name] = input.value; show(); });
    filter.append(input);
    filters.append(filter);
  }
  head.append(names, filters);

  const fill = () => {
    for (const input of filters.querySelectorAll("input"))
      input.value = wanted[input.dataset.column] || "";
  };
  document.getElementById("clear").addEventListener("click", () => {
    wanted = {};
    fill();
    show();
  });
  // Called by figures: the trials behind a point, as {column: value}.
  window.showTrials = (conditions) => {
    wanted = {};
    for (const [name, value] of Object.entries(conditions))
      if (name in place) wanted[name] = `= ${value}`;
    shown = SHOWN;
    fill();
    show();
    document.getElementById("data").scrollIntoView();
    document.getElementById("clear").focus({ preventScroll: true });
  };
  show();
})();
