// The part of the capture page that is the same for every vault. It loads the vault's script and the provider's module, and
// takes the payer back with a token. It never sees a card: that is typed into frames of the vault's origin.
const page = document.getElementById("capture");
const told = JSON.parse(page.dataset.told);
const nonce = document.querySelector("script[nonce]").nonce;
const button = document.getElementById("send");
const status = document.getElementById("status");
const problem = document.getElementById("problem");
const again = document.getElementById("again");
const NAMES = ["number", "expiry", "cvc"];

function load(script) {
  return new Promise((resolve, reject) => {
    const element = document.createElement("script");
    element.src = script.url;
    element.nonce = nonce;
    if (script.integrity) {
      element.integrity = script.integrity;
      element.crossOrigin = "anonymous";
    }
    element.onload = resolve;
    element.onerror = () => reject(new Error("the vault's script does not load"));
    document.head.append(element);
  });
}

function within(promise, milliseconds) {
  const late = new Promise((_, reject) => setTimeout(() => reject(new Error("late")), milliseconds));
  return Promise.race([promise, late]);
}

function say(words, wrong = "") {
  status.textContent = words;
  problem.textContent = wrong;
  problem.hidden = !wrong;
}

function mark(invalid) {
  for (const name of NAMES) {
    const wrong = invalid.includes(name);
    document.getElementById(`${name}-wrong`).textContent = wrong ? told.text[`${name}_wrong`] : "";
    document.getElementById(name).setAttribute("aria-invalid", String(wrong));
  }
}

// The address is ours to extend, not to rewrite: what it holds stays as it was written.
function back(token) {
  const [address, ...fragment] = told.return_url.split("#");
  const query = `${address.includes("?") ? "&" : "?"}token=${encodeURIComponent(token)}`;
  return address + query + (fragment.length ? `#${fragment.join("#")}` : "");
}

async function send(form) {
  button.disabled = true;
  mark([]);
  say(told.text.sending);
  try {
    const answer = await within(form.submit(), told.patience_ms);
    if (answer.invalid) {
      mark(answer.invalid);
      say("", told.text.invalid);
    } else if (typeof answer.token === "string" && answer.token) {
      location.replace(back(answer.token));
      return;
    } else {
      throw new Error("no token");
    }
  } catch (error) {
    console.warn("capture:", error.message);
    say("", Date.now() > told.expires_ms ? told.text.expired : told.text.failed);
    again.hidden = false;
  }
  button.disabled = false;
}

async function start() {
  const style = getComputedStyle(document.body);
  const soft = getComputedStyle(document.getElementById("hint")).color;
  const looks = { color: style.color, placeholder: soft, fontSize: style.fontSize };
  const fields = Object.fromEntries(NAMES.map((name) => [name, `#${name}`]));
  const text = Object.fromEntries(NAMES.map((name) => [name, told.text[name]]));
  for (const script of told.scripts) await load(script);
  const module = await import(told.module);
  const form = await module.mount({ data: told.data, fields, text, style: looks });
  button.addEventListener("click", () => send(form));
  button.disabled = false;
  say("");
}

within(start(), told.patience_ms).catch((error) => {
  console.warn("capture:", error.message);
  document.getElementById("fields").hidden = true;
  again.hidden = false;
  say("", told.text.blocked);
});
