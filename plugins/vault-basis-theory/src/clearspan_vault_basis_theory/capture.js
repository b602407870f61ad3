// Basis Theory Web Elements: https://developers.basistheory.com/docs/sdks/web/web-elements (read 2026-11).
// The fields are frames of js.basistheory.com; an element is a handle, its value never comes to this page.
const NAMES = { number: "number", expiration_month: "expiry", expiration_year: "expiry", cvc: "cvc" };

// `details` of a BasisTheoryValidationError names fields as the request does, at some depth.
function wrong(details, found = new Set()) {
  for (const [name, inner] of Object.entries(details ?? {})) {
    if (NAMES[name]) found.add(NAMES[name]);
    else if (typeof inner === "object") wrong(inner, found);
  }
  return found;
}

export async function mount({ data, fields, text, style }) {
  const bt = await window.basistheory(data.session_key, { environment: data.environment, disableTelemetry: true });
  const looks = {
    base: { color: style.color, fontSize: style.fontSize, "::placeholder": { color: style.placeholder } },
    invalid: { color: style.color },
  };
  const make = (type, name, autoComplete) =>
    bt.createElement(type, { targetId: `clearspan-${name}`, "aria-label": text[name], title: text[name], style: looks, autoComplete });
  const number = make("cardNumber", "number", "cc-number");
  const expiry = make("cardExpirationDate", "expiry", "cc-exp");
  const cvc = make("cardVerificationCode", "cvc", "cc-csc");
  await Promise.all([number.mount(fields.number), expiry.mount(fields.expiry), cvc.mount(fields.cvc)]);
  number.on("change", ({ cardBrand }) => cardBrand && cvc.update({ cardBrand }));
  return {
    async submit() {
      try {
        const card = { number, expiration_month: expiry.month(), expiration_year: expiry.year(), cvc };
        return { token: (await bt.tokens.create({ type: "card", data: card })).id };
      } catch (error) {
        if (error.name !== "BasisTheoryValidationError") throw error;
        const invalid = [...wrong(error.details)];
        return { invalid: invalid.length ? invalid : ["number", "expiry", "cvc"] };
      }
    },
  };
}
