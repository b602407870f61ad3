// VGS Collect.js: https://docs.verygoodsecurity.com/vault/developer-tools/vgs-collect/js (read 2026-11).
// The fields are frames of js.verygoodvault.com; what they hold goes to the vault's inbound route, and aliases come back.
const FIELDS = ["number", "expiry", "cvc"];

export async function mount({ data, fields, text, style }) {
  let state = {};
  const form = window.VGSCollect.create(data.vault_id, data.environment, (now) => {
    state = now ?? {};
  });
  form.setRouteId(data.route_id);
  if (data.cname) form.useCname(data.cname);
  const css = { color: style.color, "font-size": style.fontSize, "&::placeholder": { color: style.placeholder } };
  const make = (name, rest) => form.field(fields[name], { name, ariaLabel: text[name], css, ...rest });
  make("number", {
    type: "card-number",
    autoComplete: "cc-number",
    validations: ["required", "validCardNumber"],
    tokenization: { format: "UUID", storage: "PERSISTENT" },
  });
  // The date is no secret without the number, and the gateway shows it: it comes back as it is.
  make("expiry", {
    type: "card-expiration-date",
    autoComplete: "cc-exp",
    yearLength: 4,
    validations: ["required", "validCardExpirationDate"],
    tokenization: false,
  });
  // Volatile: forgotten after an hour, as PCI DSS wants it of security codes.
  make("cvc", {
    type: "card-security-code",
    autoComplete: "cc-csc",
    validations: ["required", "validCardSecurityCode"],
    tokenization: { format: "UUID", storage: "VOLATILE" },
  });
  const made = () => new Promise((resolve, reject) => {
    const done = (status, answer) => (status >= 200 && status < 300 ? resolve({ answer }) : reject(new Error(`VGS: ${status}`)));
    form.tokenize(done, (errors) => resolve({ errors: errors ?? state }));
  });
  return {
    async submit() {
      const { answer, errors } = await made();
      if (errors) {
        const invalid = FIELDS.filter((name) => errors[name] && errors[name].isValid !== true);
        return { invalid: invalid.length ? invalid : FIELDS };
      }
      const date = /^\s*(\d{1,2})\D+(\d{4})\s*$/.exec(answer.expiry ?? "");
      if (!date) throw new Error("VGS: the expiry date did not come back as it was typed");
      const brand = String(state.number?.cardType ?? "unknown").toLowerCase().replace(/[^a-z]/g, "");
      const last4 = String(state.number?.last4 ?? "");
      return { token: [answer.number, answer.cvc, date[1].padStart(2, "0") + date[2], brand, last4].join(".") };
    },
  };
}
