// What pages do beyond links and forms, all of it by attributes; a page that does more loads a script of its own. Without scripts every
// form and link still works; only what is live stands still.
"use strict";
(() => {
  const root = document.body.dataset.root;
  const one = (selector, inside = document) => inside.querySelector(selector);
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  const typing = (target) => target instanceof Element && (target.isContentEditable || target.matches("input:not([type=checkbox], [type=radio], [type=button], [type=submit]), select, textarea"));

  // -- Clicks: data-toggles (menu), data-opens (dialog), data-closes (message), data-copies (text) ---------------------------------
  document.addEventListener("click", (event) => {
    const target = event.target.closest("[data-toggles], [data-opens], [data-closes], [data-copies], [data-selects]");
    if (one("#menu.open") && !event.target.closest("#menu, [data-toggles]")) toggleMenu(false, false);
    all("details.person[open]").forEach((each) => { if (!each.contains(event.target)) each.open = false; });
    if (!target) return;
    const { toggles, opens, copies, selects } = target.dataset;
    if (toggles === "menu") toggleMenu();
    else if (toggles) target.setAttribute("aria-expanded", String(one("#" + toggles).classList.toggle("open")));
    if (opens === "palette") openPalette();
    else if (opens) one("#" + opens).showModal();
    if ("closes" in target.dataset) target.closest(".alert").remove();
    if (copies) copy(target, copies);
    if (selects) all(`input[name="${selects}"]`).forEach((box) => { box.checked = target.checked; });
  });
  // Browsers give no clipboard to pages that came by plain http: there the text is marked, ready for Ctrl+C.
  function copy(button, text) {
    const mark = () => getSelection().selectAllChildren(button.previousElementSibling || button);
    if (!navigator.clipboard) { mark(); return; }
    navigator.clipboard.writeText(text).then(() => {
      button.classList.add("copied");
      one("#said").textContent = `${one("#said").dataset.copied}: ${text}`;
      setTimeout(() => { button.classList.remove("copied"); one("#said").textContent = ""; }, 2000);
    }, mark);
  }
  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-submits]")) event.target.form.requestSubmit();
  });

  // -- The menu on a phone: a drawer that takes the focus and gives it back ---------------------------------------------------------
  function toggleMenu(open = !one("#menu").classList.contains("open"), giveBack = true) {
    const menu = one("#menu"), button = one(".menu-button");
    menu.classList.toggle("open", open);
    button.setAttribute("aria-expanded", String(open));
    if (open) one("button, a", menu).focus();
    else if (giveBack) button.focus();
  }
  one("#menu")?.addEventListener("focusout", (event) => {
    if (event.relatedTarget && one("#menu.open") && !event.currentTarget.contains(event.relatedTarget)) toggleMenu(false, false);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || one("dialog[open]")) return;
    if (one("#menu.open")) toggleMenu(false);
    all("details.person[open]").forEach((each) => { each.open = false; one("summary", each).focus(); });
  });

  // -- Forms: ask first (data-confirm), and send once -------------------------------------------------------------------------------
  // Listens before htmx does, so that a form it sends is asked about as well.
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.method === "dialog") return;
    if (form.dataset.confirm && !form.dataset.confirmed) {
      event.preventDefault();
      event.stopPropagation();
      const dialog = one("#confirm"), yes = one("[value=yes]", dialog), submitter = event.submitter;
      const [title, ...rest] = form.dataset.confirm.split("|");
      one("h2", dialog).textContent = title;
      one("p", dialog).textContent = rest.join("|");
      yes.textContent = submitter?.textContent.trim() || yes.dataset.says;
      yes.className = submitter?.classList.contains("danger") ? "button danger" : "button primary";
      dialog.returnValue = "no";
      dialog.addEventListener("close", () => {
        if (dialog.returnValue !== "yes") return;
        form.dataset.confirmed = "yes";
        form.requestSubmit(submitter && submitter.form === form ? submitter : undefined);
        delete form.dataset.confirmed;
      }, { once: true });
      dialog.showModal();
      return;
    }
    if (form.method === "post") setTimeout(() => {
      all("button:not(:disabled)", form).forEach((button) => { button.disabled = true; button.dataset.sent = ""; });
      setTimeout(() => again(form), 8000); // The answer was a file, or never came. The form's key makes a second press harmless.
    });
  }, true);
  const again = (form) => all("button[data-sent]", form).forEach((button) => { button.disabled = false; delete button.dataset.sent; });
  window.addEventListener("pageshow", () => again(document));
  document.addEventListener("htmx:afterRequest", (event) => again(event.target));

  // -- Keys -------------------------------------------------------------------------------------------------------------------------
  // Single keys can be switched off (WCAG 2.1.4): whoever speaks to their computer would type them by accident.
  let first = "";
  const single = one("#single-keys");
  if (single) {
    single.checked = localStorage.getItem("single-keys") !== "off";
    single.addEventListener("change", () => localStorage.setItem("single-keys", single.checked ? "on" : "off"));
  }
  document.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") { event.preventDefault(); openPalette(); return; }
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || typing(event.target) || one("dialog[open]")) return;
    if (!single?.checked) return;
    if (event.key === "/" && one("[data-key='/']")) { event.preventDefault(); one("[data-key='/']").focus(); return; }
    if (event.key === "?") { one("#keys")?.showModal(); return; }
    const keys = first ? `${first} ${event.key}` : event.key;
    const link = all("[data-keys]").find((each) => each.dataset.keys === keys);
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
    const actions = (within) => all(`${within} [data-command]`).map((each) => ({ title: each.dataset.command, go: () => { palette.close(); each.click(); } }));
    choices = [...actions("main"), ...pages, ...actions("dialog")].filter((each) => words.every((word) => each.title.toLowerCase().includes(word)));
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
    const input = one("input", palette);
    input.ariaExpanded = String(choices.length > 0);
    if (choices.length) input.setAttribute("aria-activedescendant", "palette-0");
    else input.removeAttribute("aria-activedescendant");
    one(".palette-none", palette).hidden = choices.length > 0;
  }
  if (palette) {
    one("input", palette).addEventListener("input", (event) => fill(event.target.value.trim()));
    one("input", palette).addEventListener("keydown", (event) => {
      const items = all("li", palette);
      const now = items.findIndex((item) => item.ariaSelected === "true");
      if (event.key === "Escape" && !event.isComposing) { event.preventDefault(); palette.close(); } // A search field would only be emptied.
      if (event.key === "Enter" && !event.isComposing) { event.preventDefault(); choices[Math.max(now, 0)]?.go(); }
      if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
      event.preventDefault();
      if (!items.length) return;
      const next = (now + (event.key === "ArrowDown" ? 1 : items.length - 1)) % items.length;
      items.forEach((item, index) => { item.ariaSelected = String(index === next); });
      items[next]?.scrollIntoView({ block: "nearest" });
      event.target.setAttribute("aria-activedescendant", `palette-${next}`);
    });
  }
})();
