// What pages do beyond links and forms, all of it by attributes: no page has a script of its own. Without scripts every form and link
// still works; only what is live stands still.
"use strict";
(() => {
  const root = document.body.dataset.root;
  const one = (selector, inside = document) => inside.querySelector(selector);
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  const typing = (target) => target.matches("input, select, textarea, [contenteditable]");

  // -- Clicks: data-toggles (menu), data-opens (dialog), data-closes (message), data-copies (text) ---------------------------------
  document.addEventListener("click", (event) => {
    const target = event.target.closest("[data-toggles], [data-opens], [data-closes], [data-copies], [data-selects]");
    const menu = one("#menu.open");
    if (menu && !menu.contains(event.target) && !event.target.closest("[data-toggles]")) menu.classList.remove("open");
    all("details.person[open]").forEach((each) => { if (!each.contains(event.target)) each.open = false; });
    if (!target) return;
    const { toggles, opens, copies, selects } = target.dataset;
    if (toggles) target.setAttribute("aria-expanded", String(one("#" + toggles).classList.toggle("open")));
    if (opens === "palette") openPalette();
    else if (opens) one("#" + opens).showModal();
    if ("closes" in target.dataset) target.closest(".alert").remove();
    if (copies) navigator.clipboard?.writeText(copies).then(() => {
      target.classList.add("copied");
      setTimeout(() => target.classList.remove("copied"), 1200);
    });
    if (selects) all(`input[name="${selects}"]`).forEach((box) => { box.checked = target.checked; });
  });
  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-submits]")) event.target.form.requestSubmit();
  });

  // -- Forms: ask first (data-confirm), and send once -------------------------------------------------------------------------------
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.method === "dialog") return;
    if (form.dataset.confirm && !form.dataset.confirmed) {
      event.preventDefault();
      const dialog = one("#confirm");
      const [title, ...rest] = form.dataset.confirm.split("|");
      one("h2", dialog).textContent = title;
      one("p", dialog).textContent = rest.join("|");
      dialog.returnValue = "no";
      const submitter = event.submitter;
      dialog.addEventListener("close", () => {
        if (dialog.returnValue !== "yes") return;
        form.dataset.confirmed = "yes";
        form.requestSubmit(submitter && submitter.form === form ? submitter : undefined);
        delete form.dataset.confirmed;
      }, { once: true });
      dialog.showModal();
      return;
    }
    if (form.method === "post") setTimeout(() => all("button", form).forEach((button) => { button.disabled = true; }));
  });
  window.addEventListener("pageshow", () => all("form button[disabled]").forEach((button) => { button.disabled = button.hasAttribute("data-off"); }));

  // -- Keys -------------------------------------------------------------------------------------------------------------------------
  let first = "";
  document.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") { event.preventDefault(); openPalette(); return; }
    if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target) || one("dialog[open]")) return;
    if (event.key === "/" && one("[data-key='/']")) { event.preventDefault(); one("[data-key='/']").focus(); return; }
    if (event.key === "?") { one("#keys")?.showModal(); return; }
    const keys = first ? `${first} ${event.key}` : event.key;
    const link = one(`[data-keys="${CSS.escape(keys)}"]`) || all("[data-keys]").find((each) => each.dataset.keys === keys);
    if (link) { first = ""; link.click(); return; }
    first = event.key === "g" ? "g" : "";
    if (first) setTimeout(() => { first = ""; }, 1200);
  });

  // -- The palette: pages of the menu, actions of this page (data-command), or a search --------------------------------------------
  const palette = one("#palette");
  let choices = [];
  function openPalette() {
    if (!palette || palette.open) return;
    palette.showModal();
    one("input", palette).value = "";
    fill("");
  }
  function fill(query) {
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    const pages = all("#menu a").map((link) => ({ title: link.textContent.trim(), go: () => { location.href = link.href; } }));
    const actions = all("[data-command]").map((each) => ({ title: each.dataset.command, go: () => { palette.close(); each.click(); } }));
    choices = [...actions, ...pages].filter((each) => words.every((word) => each.title.toLowerCase().includes(word)));
    if (query) choices.push({ title: `${one("#find").labels[0].textContent}: ${query}`, go: () => { location.href = `${root}/payments?q=${encodeURIComponent(query)}`; } });
    const list = one("ul", palette);
    list.replaceChildren(...choices.map((each, index) => {
      const item = document.createElement("li");
      item.id = `palette-${index}`;
      item.role = "option";
      item.textContent = each.title;
      item.ariaSelected = String(index === 0);
      item.addEventListener("click", each.go);
      return item;
    }));
    one("input", palette).setAttribute("aria-activedescendant", choices.length ? "palette-0" : "");
  }
  if (palette) {
    one("input", palette).addEventListener("input", (event) => fill(event.target.value.trim()));
    one("input", palette).addEventListener("keydown", (event) => {
      const items = all("li", palette);
      const now = items.findIndex((item) => item.ariaSelected === "true");
      if (event.key === "Enter") { event.preventDefault(); choices[Math.max(now, 0)]?.go(); }
      if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
      event.preventDefault();
      const next = (now + (event.key === "ArrowDown" ? 1 : items.length - 1)) % items.length;
      items.forEach((item, index) => { item.ariaSelected = String(index === next); });
      items[next]?.scrollIntoView({ block: "nearest" });
      event.target.setAttribute("aria-activedescendant", `palette-${next}`);
    });
  }
})();
