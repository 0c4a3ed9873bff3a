// A file of its own, so that the page needs no inline script and its
// Content-Security-Policy allows none.
SwaggerUIBundle({
  dom_id: '#swagger-ui',
  urls: [
    { url: 'openapi.json', name: 'Management API' },
    { url: '/swagger.json', name: 'd.ims.io API' },
  ],
  deepLinking: true,
  validatorUrl: null, // it would send the document to somebody else
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIStandalonePreset],
  layout: 'StandaloneLayout',
});
