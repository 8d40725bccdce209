/** uPlot in the page's own colours, as wide as its place. The figures that it draws stand in words beside it. */

import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";

/** `bars` stand over a scale from 0 to 1. */
export type Line = { label: string; bars?: boolean; quiet?: boolean };

const HEIGHT = 180;

export function Chart({ name, data, lines, time }: { name: string; data: uPlot.AlignedData; lines: Line[]; time?: boolean }) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const shape = JSON.stringify(lines);
  useEffect(() => {
    const inside = place.current;
    if (!inside) return undefined;
    const drawn = new uPlot(options(inside, lines, time ?? false), data, inside);
    plot.current = drawn;
    const watch = new ResizeObserver(() => drawn.setSize({ width: inside.clientWidth, height: HEIGHT }));
    watch.observe(inside);
    return () => (watch.disconnect(), drawn.destroy());
  }, [shape, time]);
  useEffect(() => plot.current?.setData(data), [data]);
  return <div class="chart" role="img" aria-label={name} ref={place} />;
}

function options(inside: HTMLElement, lines: Line[], time: boolean): uPlot.Options {
  const colour = (name: string): string => getComputedStyle(inside).getPropertyValue(name).trim();
  const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
  const bars = uPlot.paths.bars?.({ size: [0.9, 40] });
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
        return line.bars && bars ? { ...drawn, width: 0, fill: ink, paths: bars } : drawn;
      }),
    ],
  };
}
