"""Style and script of the HTML page; the colours come from the shared palette."""

from magic_pyramid.report.palette import EXIT, LEVELS, ink_on, on_dark, on_light

_LIGHT_LEVELS = "".join(
    f".l{step}{{background:{color};color:{ink_on(color)}}}"
    for step, color in ((s, on_light((s + 0.5) / LEVELS)) for s in range(LEVELS))
)
_DARK_LEVELS = "".join(
    f".l{step}{{background:{color};color:{ink_on(color)}}}"
    for step, color in ((s, on_dark((s + 0.5) / LEVELS)) for s in range(LEVELS))
)

STYLE = (
    ":root{color-scheme:light dark;--paper:#fffdf8;--ink:#2a2622;--muted:#6f675e;--ghost:#a89e91;"
    f"--line:#e6dfd3;--exit:{EXIT};--card:#faf5ea}}"
    "@media (prefers-color-scheme:dark){:root{--paper:#191613;--ink:#f0ebe2;--muted:#a79d90;--ghost:#75695c;"
    "--line:#383129;--exit:#3fbdb4;--card:#221e1a}}"
    + _LIGHT_LEVELS
    + "@media (prefers-color-scheme:dark){"
    + _DARK_LEVELS
    + "}"
    + """
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:68rem;margin:0 auto;padding:2rem 1.25rem 4rem}
header{display:flex;flex-wrap:wrap;justify-content:space-between;gap:.5rem 2rem;align-items:flex-end;
margin-bottom:1.75rem}
h1{font-size:2rem;line-height:1.2;margin:0;overflow-wrap:anywhere}h1 span{font-weight:400}
header p,.hint{margin:.25rem 0 0;color:var(--muted);font-size:.9rem}
.accent,.saving strong{color:var(--exit)}.saving strong{font-size:2rem;line-height:1.2}
@media (min-width:48rem){.saving{text-align:right}}
h2{font-size:1.05rem;margin:2.5rem 0 .5rem}
i,u,s,b{font-style:normal;text-decoration:none;font-weight:inherit}
.row{display:grid;grid-template-columns:2.6rem minmax(0,1fr) 5.6rem;align-items:center;gap:.6rem;
padding:.22rem 0}
.row>b,.row>span{font-size:.85rem;font-variant-numeric:tabular-nums}.row>b{text-align:right}
.row>span{text-align:right;white-space:nowrap}
.row.head>*{color:var(--muted)}td.head{white-space:nowrap}
.strip{display:flex;justify-content:center;margin:0 auto;max-width:100%}
.words .strip{flex-wrap:wrap;gap:.2rem .15rem}
.words .strip i{padding:.14rem .42rem;border-radius:.3rem;border:1px solid transparent;
overflow-wrap:anywhere;min-width:0}
.words .strip i.on{margin-left:-.15rem;padding-left:.1rem;border-top-left-radius:0;
border-bottom-left-radius:0}
.thin .strip{height:1.3rem;justify-content:flex-start}.thin .strip i{flex:1 1 0;min-width:0}
.fell{color:var(--ghost);text-decoration:line-through;border-color:var(--line)!important}
.thin .fell{background:linear-gradient(var(--ghost),var(--ghost)) center/100% 24% no-repeat}
.strip i.lit{outline:2px solid var(--exit);outline-offset:0;z-index:1;position:relative}
.thin .strip i.lit{background:var(--exit);outline-width:1.5px}
.exit{display:flex;align-items:center;margin:.6rem 0 .5rem;border-radius:99px}
.exit::before,.exit::after{content:"";height:2px;background:var(--exit);flex:0 0 1.6rem}
.exit::after{flex:1 1 2rem}
.exit span{background:var(--exit);color:var(--paper);font-weight:600;border-radius:99px;
padding:.15rem .9rem;overflow-wrap:anywhere}
.idle{padding:.1rem 0}.idle>*{color:var(--ghost)}
.idle i{display:block;height:.5rem;margin:0 auto;min-width:1.5rem;border:1px solid var(--line);
border-radius:2px;
background:repeating-linear-gradient(135deg,var(--line) 0 1px,transparent 1px 5px)}
.legend{color:var(--muted);font-size:.82rem;margin:1rem 0 0}
.legend s{text-decoration:line-through;color:var(--ghost);margin-left:1rem}
.scale i{display:inline-block;width:1.1rem;height:.6rem;vertical-align:baseline}
.scale i:first-of-type{margin-left:.35rem}.scale i:last-of-type{margin-right:.35rem}
.reader{line-height:1.9;background:var(--card);border-radius:.6rem;padding:.8rem 1rem;margin-top:.6rem;
max-height:22rem;overflow:auto;overflow-wrap:anywhere}
.reader span{cursor:default;border-radius:.2rem;padding:.05rem 0}
.d1{color:var(--ghost)}.d2{color:color-mix(in srgb,var(--ghost) 72%,var(--ink))}
.d3{color:color-mix(in srgb,var(--ghost) 45%,var(--ink))}
.d4{color:color-mix(in srgb,var(--ghost) 20%,var(--ink))}.d5{font-weight:700}
.reader span.lit,.reader span:focus-visible{outline:2px solid var(--exit);outline-offset:1px}
.detail{min-height:6.2rem;margin-top:.7rem;color:var(--muted);font-size:.9rem}
.detail strong{color:var(--ink);font-size:1.05rem}
.chart{display:flex;gap:.3rem;align-items:flex-end;height:3.8rem;margin-top:.4rem}
.chart span{display:flex;flex-direction:column;justify-content:flex-end;align-items:center;width:2.3rem;
font-size:.7rem;line-height:1.1;font-variant-numeric:tabular-nums}
.chart i{display:block;width:100%;background:var(--exit);border-radius:2px 2px 0 0;min-height:1px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.88rem;width:100%}
th,td{text-align:left;padding:.28rem .6rem .28rem 0;font-weight:400;border-top:1px solid var(--line);
vertical-align:top}
thead th{color:var(--muted);border:0;white-space:nowrap}
.number{white-space:nowrap;font-variant-numeric:tabular-nums}
.bars{max-width:36rem}.bars th{overflow-wrap:anywhere}.bars .bar{width:45%}
.bar{position:relative;min-width:7rem}.bar i{display:block;height:.5rem;margin-top:.42rem;
background:var(--exit);border-radius:2px;min-width:1px}
.layers .bar{padding:.28rem 0;
background:linear-gradient(var(--line),var(--line)) left .98rem/100% 1px no-repeat}
.layers .bar i{background:var(--ghost)}.layers .bar i.alive{background:#e2983a}
.bar u{position:absolute;top:.35rem;height:1.15rem;width:2px;background:var(--exit)}
.layers .bar+td,.layers .wide+th{padding-left:.9rem}
.here th,.here td{color:var(--exit);font-weight:600}
.layers .here .bar:nth-of-type(4) i{background:var(--exit)}
.layers .dropped{min-width:14rem;padding-left:.9rem;color:var(--muted);font-weight:400;
overflow-wrap:anywhere}
summary{cursor:pointer;margin-top:2rem;color:var(--muted)}
.tokens{width:auto}.tokens td,.tokens th{padding:.1rem .5rem;font-variant-numeric:tabular-nums;
white-space:nowrap}
@media (max-width:40rem){main{padding:1.25rem .9rem 3rem}
.row{grid-template-columns:1.6rem minmax(0,1fr) 4.6rem;gap:.35rem}.head>b{font-size:.7rem}
.words .strip{font-size:.82rem}h1,.saving strong{font-size:1.6rem}.bar{min-width:5rem}}
"""
)

SCRIPT = """
(() => {
  const data = JSON.parse(document.getElementById("trace").textContent);
  const detail = document.getElementById("detail");
  const options = [...document.querySelectorAll(".reader span")];
  const cells = [...document.querySelectorAll(".strip i")];
  let current = -1;
  const node = (tag, text) => { const e = document.createElement(tag); e.textContent = text; return e; };
  const show = (token) => {
    if (token === current) return;
    current = token;
    for (const e of [...options, ...cells]) e.classList.toggle("lit", Number(e.dataset.t) === token);
    for (const e of options) e.setAttribute("aria-selected", String(Number(e.dataset.t) === token));
    const fell = data.fell[token], values = data.importance[token];
    const fate = fell === null ? `kept to the end (layer ${data.exitLayer})` : `dropped in layer ${fell}`;
    const chart = node("div", ""); chart.className = "chart";
    const top = Math.max(...values, 1e-9);
    values.forEach((value, layer) => {
      const column = node("span", value.toFixed(2)), bar = node("i", "");
      bar.style.height = `${Math.max(1, 28 * value / top)}px`;
      column.append(bar, node("b", String(layer)));
      column.setAttribute("aria-label", `layer ${layer}: ${value.toFixed(2)}`);
      chart.append(column);
    });
    const caption = ` - ${fate}. Importance by layer (1 = average):`;
    detail.replaceChildren(node("strong", data.words[token]), caption, chart);
  };
  const tokenOf = (event) => event.target.closest("[data-t]");
  for (const type of ["mouseover", "click", "focusin"])
    document.addEventListener(type, (event) => {
      const element = tokenOf(event);
      if (element) show(Number(element.dataset.t));
    });
  document.querySelector(".reader").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const edge = { Home: 0, End: options.length - 1 }[event.key];
    const now = options.indexOf(document.activeElement);
    if (now < 0 || (step === undefined && edge === undefined)) return;
    const next = edge ?? Math.min(options.length - 1, Math.max(0, now + step));
    options[now].tabIndex = -1; options[next].tabIndex = 0; options[next].focus();
    event.preventDefault();
  });
})();
"""
