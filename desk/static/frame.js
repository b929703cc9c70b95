// The frame around the tabs: who is logged in, dark or light.
"use strict";

(() => {
  const store = {
    get: (name) => { try { return localStorage.getItem(name); } catch { return null; } },
    set: (name, value) => { try { localStorage.setItem(name, value); } catch { /* a browser that keeps nothing */ } },
  };

  function theme(dark) {
    document.body.classList.toggle("dark", dark);
    document.documentElement.style.colorScheme = dark ? "dark" : "light";
    const button = document.getElementById("desk-theme");
    if (button) button.textContent = dark ? "Light" : "Dark";
  }

  function fill(header, me) {
    if (header.dataset.ready) return;
    header.dataset.ready = "1";
    header.querySelector("#desk-user").textContent = me.local ? "" : `${me.name} · ${me.role}`;
    header.querySelector("#desk-local").hidden = !me.local;
    header.querySelector("#desk-logout").hidden = !me.logout;
    const system = matchMedia("(prefers-color-scheme: dark)");
    const chosen = () => store.get("desk-theme") ?? (system.matches ? "dark" : "light");
    theme(chosen() === "dark");
    system.addEventListener("change", () => theme(chosen() === "dark"));
    header.querySelector("#desk-theme").addEventListener("click", () => {
      store.set("desk-theme", document.body.classList.contains("dark") ? "light" : "dark");
      theme(chosen() === "dark");
    });
  }

  async function start() {
    const answer = await fetch("/desk/me");
    if (answer.status === 401) { location.assign("/login"); return; }
    const me = await answer.json();
    window.deskUser = me;
    const look = () => {
      const header = document.getElementById("desk-header");
      if (header) fill(header, me);
      document.dispatchEvent(new CustomEvent("desk-look"));
    };
    // Gradio draws the page when it likes, and parts of it anew.
    new MutationObserver(() => { clearTimeout(look.soon); look.soon = setTimeout(look, 30); }).observe(document.body, { childList: true, subtree: true });
    look();
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start); else start();
})();
