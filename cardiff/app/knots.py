"""A drawing of log-SNR over t with knots that are dragged, or moved by the arrow keys."""

import json
from typing import Any

import gradio as gr

from cardiff.app.noise import KNOTS, LEVELS, TIMES, start_knots

SCRIPT = """
const [top, bottom] = %LEVELS%, times = %TIMES%, gap = 0.05;
const W = 460, H = 260, L = 52, B = 34, S = 'http://www.w3.org/2000/svg';
const x = t => L + t * (W - L - 12), y = v => 10 + (top - v) / (top - bottom) * (H - B - 10);
let values = JSON.parse(props.value), svg, line, dots = [];
const make = (name, attributes, parent, text) => {
  const node = document.createElementNS(S, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  parent.appendChild(node);
  return node;
};
const place = () => {
  line.setAttribute('points', values.map((v, i) => x(times[i]) + ',' + y(v)).join(' '));
  dots.forEach((dot, i) => {
    dot.setAttribute('cx', x(times[i])); dot.setAttribute('cy', y(values[i]));
    dot.setAttribute('aria-valuenow', values[i]);
    dot.setAttribute('aria-valuetext', 'log-SNR ' + values[i].toFixed(1));
  });
};
const move = (i, v) => {  // each knot stays below the one to its left
  const high = i > 0 ? values[i - 1] - gap : top, low = i < values.length - 1 ? values[i + 1] + gap : bottom;
  values[i] = Math.round(Math.min(high, Math.max(low, v)) * 100) / 100;
  place();
};
const done = () => { props.value = JSON.stringify(values); trigger('change'); };
const draw = () => {
  const holder = element.querySelector('.knots');
  holder.replaceChildren(); dots = [];
  svg = document.createElementNS(S, 'svg'); holder.appendChild(svg);
  svg.setAttribute('viewBox', '0 0 ' + W + ' ' + H); svg.setAttribute('role', 'group');
  svg.setAttribute('aria-label', 'Your schedule: log-SNR at ' + times.length + ' times');
  for (const v of [10, 5, 0, -5, -10]) {
    make('line', {x1: L, x2: W - 12, y1: y(v), y2: y(v), class: 'rule'}, svg);
    make('text', {x: L - 12, y: y(v) + 4, 'text-anchor': 'end'}, svg, v);
  }
  for (const t of [0, 0.5, 1]) make('text', {x: x(t), y: H - 16, 'text-anchor': 'middle'}, svg, t);
  make('text', {x: x(0.5), y: H - 2, 'text-anchor': 'middle'}, svg, 't: 0 image, 1 noise');
  make('text', {x: 12, y: y(0), 'text-anchor': 'middle', transform: 'rotate(-90 12 ' + y(0) + ')'}, svg, 'log-SNR');
  line = make('polyline', {class: 'curve'}, svg);
  values.forEach((v, i) => {
    const dot = make('circle', {r: 8, tabindex: 0, role: 'slider', 'aria-label': 'knot at t = ' + times[i].toFixed(2),
      'aria-orientation': 'vertical', 'aria-valuemin': bottom, 'aria-valuemax': top}, svg);
    dots.push(dot);
    dot.addEventListener('pointerdown', e => { dot.setPointerCapture(e.pointerId); e.preventDefault(); dot.focus(); });
    dot.addEventListener('pointermove', e => {
      if (!dot.hasPointerCapture(e.pointerId)) return;
      const box = svg.getBoundingClientRect();
      move(i, top - ((e.clientY - box.top) / box.height * H - 10) / (H - B - 10) * (top - bottom));
    });
    dot.addEventListener('pointerup', done);
    dot.addEventListener('keydown', e => {
      const by = {ArrowUp: 0.25, ArrowRight: 0.25, ArrowDown: -0.25, ArrowLeft: -0.25, PageUp: 2, PageDown: -2}[e.key];
      if (by === undefined) return;
      e.preventDefault(); move(i, values[i] + by); props.value = JSON.stringify(values); trigger('change');
      setTimeout(() => dots[i].focus(), 0);
    });
  });
  place();
};
draw();
watch('value', () => { values = JSON.parse(props.value); draw(); });
"""
STYLE = """
.knots svg { width: 100%; max-width: 620px; touch-action: none; user-select: none }
.knots text { font-size: 12px; fill: var(--body-text-color) }
.knots .rule { stroke: var(--border-color-primary) }
.knots .curve { fill: none; stroke: #CC79A7; stroke-width: 2.5 }
.knots circle { fill: #CC79A7; stroke: var(--background-fill-primary); stroke-width: 2; cursor: ns-resize }
.knots circle:focus { outline: 3px solid var(--color-accent); outline-offset: 2px }
"""


def knots_editor() -> gr.HTML:
    """The drawing; its value is a JSON list of log-SNRs at TIMES."""
    script = SCRIPT.replace("%LEVELS%", str(list(LEVELS))).replace("%TIMES%", str(TIMES))
    return gr.HTML(
        value=str(start_knots()),
        html_template='<div class="knots"></div>',
        css_template=STYLE,
        js_on_load=script,
        label="Your schedule",
        elem_id="noise-knots",
    )


def read_knots(value: Any) -> list[float]:
    """The log-SNRs of the drawing; empty if they are not a list of numbers."""
    try:
        found = [float(v) for v in json.loads(value)]
    except (TypeError, ValueError):
        return []
    return found if len(found) == KNOTS else []
