// A file of its own, so that the page needs no inline script and its
// Content-Security-Policy allows none.
// Who is signed in with this browser changes something only with the token that is in the page.
const token = document.querySelector('meta[name="csrf-token"]').content;
SwaggerUIBundle({
  dom_id: '#swagger-ui',
  urls: [
    { url: 'openapi.json', name: 'Management API' },
    { url: '/swagger.json', name: 'd.ims.io API' },
  ],
  deepLinking: true,
  requestInterceptor: (request) => {
    if (token && new URL(request.url, document.baseURI).origin === location.origin) {
      request.headers = { ...request.headers, 'X-CSRF-Token': token };
    }
    return request;
  },
  validatorUrl: null, // it would send the document to somebody else
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIStandalonePreset],
  layout: 'StandaloneLayout',
});
