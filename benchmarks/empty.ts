/** A Worker that does nothing: what the runtime itself costs for a request. */

export default {
  fetch: () => new Response("", { headers: { "x-ragstone-cache": "hit" } }),
} satisfies ExportedHandler;
