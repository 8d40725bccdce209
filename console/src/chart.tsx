/** uPlot in the page's own colours, as wide as its place. The figures that it draws stand in words beside it. */

import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";

/** `bars` stand over a scale from 0 to 1: in the middle of their place, or on one `side` of it. */
export type Line = { label: string; bars?: boolean; quiet?: boolean; side?: "left" | "right" };

const HEIGHT = 180;

/** `mark` is a place on the x axis through which a line goes. */
export function Chart({ name, data, lines, time, mark }: { name: string; data: uPlot.AlignedData; lines: Line[]; time?: boolean; mark?: number }) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const marked = useRef(mark);
  marked.current = mark;
  const shape = JSON.stringify(lines);
  useEffect(() => {
    const inside = place.current;
    if (!inside) return undefined;
    const drawn = new uPlot({ ...options(inside, lines, time ?? false), hooks: { draw: [(now) => cross(now, marked.current, inside)] } }, data, inside);
    plot.current = drawn;
    const watch = new ResizeObserver(() => drawn.setSize({ width: inside.clientWidth, height: HEIGHT }));
    watch.observe(inside);
    return () => (watch.disconnect(), drawn.destroy());
  }, [shape, time]);
  useEffect(() => plot.current?.setData(data), [data, mark]);
  return <div class="chart" role="img" aria-label={name} ref={place} />;
}

function cross(plot: uPlot, mark: number | undefined, inside: HTMLElement): void {
  if (mark === undefined) return;
  const { ctx, bbox } = plot;
  const x = plot.valToPos(mark, "x", true);
  ctx.save();
  ctx.strokeStyle = getComputedStyle(inside).getPropertyValue("--ink").trim();
  ctx.lineWidth = 2 * devicePixelRatio;
  ctx.beginPath();
  ctx.moveTo(x, bbox.top);
  ctx.lineTo(x, bbox.top + bbox.height);
  ctx.stroke();
  ctx.restore();
}

function options(inside: HTMLElement, lines: Line[], time: boolean): uPlot.Options {
  const colour = (name: string): string => getComputedStyle(inside).getPropertyValue(name).trim();
  const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
  return {
    width: inside.clientWidth || 300,
    height: HEIGHT,
    cursor: { show: false },
    legend: { show: lines.length > 1, live: false },
    scales: { x: lines[0]?.bars ? { time, range: [0, 1] } : { time } },
    axes: [axis, { ...axis, size: 46 }],
    series: [
      {},
      ...lines.map((line) => {
        const ink = colour(line.quiet ? "--quiet" : "--accent");
        const drawn = { label: line.label, stroke: ink, width: 1.5, points: { show: false } };
        const bars = line.side ? uPlot.paths.bars?.({ size: [0.42, 20], align: line.side === "left" ? -1 : 1 }) : uPlot.paths.bars?.({ size: [0.9, 40] });
        return line.bars && bars ? { ...drawn, width: 0, fill: ink, paths: bars } : drawn;
      }),
    ],
  };
}

export interface Moved {
  word: string;
  before: [number, number];
  after: [number, number];
  named: boolean;
}

const TALL = 420;

/** Points before and after, a line from each to each; those that are named have their words. */
export function Scatter({ name, points }: { name: string; points: Moved[] }) {
  const place = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const inside = place.current;
    if (!inside) return undefined;
    const drawn = new uPlot(scattered(inside, points), columns(points), inside);
    const watch = new ResizeObserver(() => drawn.setSize({ width: inside.clientWidth, height: TALL }));
    watch.observe(inside);
    return () => (watch.disconnect(), drawn.destroy());
  }, [points]);
  return <div class="chart" role="img" aria-label={name} ref={place} />;
}

/** As uPlot takes them: every x in its order, with the one y or the other. */
function columns(points: Moved[]): uPlot.AlignedData {
  const all = points.flatMap(({ before, after }) => [{ at: before, first: true }, { at: after, first: false }]).toSorted((one, other) => one.at[0] - other.at[0]);
  return [all.map(({ at }) => at[0]), all.map(({ at, first }) => (first ? at[1] : null)), all.map(({ at, first }) => (first ? null : at[1]))];
}

function scattered(inside: HTMLElement, points: Moved[]): uPlot.Options {
  const colour = (variable: string): string => getComputedStyle(inside).getPropertyValue(variable).trim();
  const series = (label: string, ink: string): uPlot.Series => ({ label, stroke: ink, paths: () => null, points: { show: true, size: 6, fill: ink } });
  return {
    width: inside.clientWidth || 300,
    height: TALL,
    cursor: { show: false },
    legend: { show: true, live: false },
    scales: { x: { time: false } },
    axes: [{ show: false }, { show: false }],
    series: [{}, series("before", colour("--quiet")), series("after", colour("--accent"))],
    hooks: { draw: [(plot) => paths(plot, points, colour("--line"), colour("--ink"))] },
  };
}

function paths(plot: uPlot, points: Moved[], line: string, ink: string): void {
  const { ctx } = plot;
  const spot = ([x, y]: [number, number]): [number, number] => [plot.valToPos(x, "x", true), plot.valToPos(y, "y", true)];
  ctx.save();
  ctx.strokeStyle = line;
  ctx.fillStyle = ink;
  ctx.font = `${12 * devicePixelRatio}px system-ui, sans-serif`;
  for (const { word, before, after } of points.filter((one) => one.named)) {
    ctx.beginPath();
    ctx.moveTo(...spot(before));
    ctx.lineTo(...spot(after));
    ctx.stroke();
    const [x, y] = spot(after);
    ctx.fillText(word, x + 6 * devicePixelRatio, y);
  }
  ctx.restore();
}
